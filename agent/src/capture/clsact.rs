//! The clsact queueing discipline of an interface, which TC filters need: made where there is none, and taken away
//! again if we made it and nobody else has come to use it; and which filters are on it. Knows nothing of programs.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd as _, OwnedFd};

use aya::programs::TcError;
use aya::programs::tc::qdisc_add_clsact;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::Error;
use super::interfaces::Interface;

/// include/uapi/linux/pkt_sched.h: the qdisc's handle, its place, and the filters of each direction.
const HANDLE: u32 = 0xffff_0000;
const PLACE: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// A clsact qdisc that was not there before. Dropping it deletes it, unless there are filters on it.
#[derive(Debug)]
pub(crate) struct Made {
    ifindex: u32,
}

impl Made {
    /// Made by us in an earlier life.
    pub(crate) fn before(interface: &Interface) -> Self {
        Self { ifindex: interface.index }
    }
}

/// A BPF filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Filter {
    pub(crate) priority: u16,
    pub(crate) handle: u32,
    pub(crate) name: String,
}

/// The BPF filters on one side of an interface.
pub(crate) fn filters(ifindex: u32, egress: bool) -> Result<Vec<Filter>, Errno> {
    let answers = ask(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, ifindex, 0, if egress { EGRESS } else { INGRESS })?;
    Ok(answers.iter().filter(|(kind, _)| *kind == libc::RTM_NEWTFILTER).filter_map(|(_, body)| filter(body)).collect())
}

/// A `tcmsg` with its attributes; none for another kind of filter, and for the entry that stands for a priority alone.
fn filter(message: &[u8]) -> Option<Filter> {
    /// include/uapi/linux/rtnetlink.h and pkt_cls.h
    const TCA_OPTIONS: u16 = 2;
    const TCA_BPF_NAME: u16 = 7;
    let (handle, info) = (u32_at(message, 8)?, u32_at(message, 16)?);
    let body = message.get(TCMSG_LEN..)?;
    if attribute(body, TCA_KIND)? != b"bpf\0" || handle == 0 {
        return None;
    }
    let name = attribute(attribute(body, TCA_OPTIONS)?, TCA_BPF_NAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some(Filter { priority: (info >> 16) as u16, handle, name })
}

/// Sees to it that the interface has a clsact qdisc; `None` when it had one.
pub(crate) fn ensure(interface: &Interface) -> Result<Option<Made>, Error> {
    match qdisc_add_clsact(&interface.name) {
        Ok(()) => return Ok(Some(Made { ifindex: interface.index })),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(Error::Program(error.into())),
    }
    let kind = kind(interface.index).map_err(|e| Error::Io { what: "look at the qdiscs", source: e.into() })?;
    // The older `ingress` qdisc sits in the same place. It would take an egress filter and run it on ingress.
    if kind == b"clsact" { Ok(None) } else { Err(Error::IngressQdisc(interface.name.clone())) }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Somebody may add a filter between the look and the deletion; the kernel has no way to do both at once.
        let delete = || -> Result<(), Errno> {
            for side in [INGRESS, EGRESS] {
                let filters = ask(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, self.ifindex, 0, side)?;
                if filters.iter().any(|(kind, _)| *kind == libc::RTM_NEWTFILTER) {
                    return Ok(());
                }
            }
            ask(libc::RTM_DELQDISC, libc::NLM_F_ACK, self.ifindex, HANDLE, PLACE).map(drop)
        };
        match delete() {
            // The interface is gone and the qdisc with it, or somebody else has deleted it.
            Ok(()) | Err(Errno::ENODEV | Errno::ENOENT | Errno::EINVAL) => {}
            Err(error) => tracing::warn!(ifindex = self.ifindex, %error, "the clsact qdisc stays behind"),
        }
    }
}

/// `TCA_KIND` (include/uapi/linux/rtnetlink.h), a string that ends in a zero byte.
const TCA_KIND: u16 = 1;

/// Kind of the qdisc in clsact's place.
fn kind(ifindex: u32) -> Result<Vec<u8>, Errno> {
    // All of the host: asked for this one alone, Linux 6.18 does not answer.
    let answers = ask(libc::RTM_GETQDISC, libc::NLM_F_DUMP, ifindex, 0, PLACE)?;
    let here = |qdisc: &[u8]| u32_at(qdisc, 4) == Some(ifindex) && u32_at(qdisc, 12) == Some(PLACE);
    let (_, qdisc) = answers.iter().find(|(_, qdisc)| here(qdisc)).ok_or(Errno::ENOENT)?;
    let kind = attribute(qdisc.get(TCMSG_LEN..).unwrap_or_default(), TCA_KIND).ok_or(Errno::EBADMSG)?;
    Ok(kind.strip_suffix(&[0]).unwrap_or(kind).to_vec())
}

/// Value of the first attribute of this kind (include/uapi/linux/netlink.h, `struct nlattr`).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        if kind == wanted {
            return attributes.get(4..usize::from(len));
        }
        attributes = attributes.get(usize::from(len).max(4).next_multiple_of(4)..)?;
    }
    None
}

/// `struct nlmsghdr` and `struct tcmsg`.
const HEADER_LEN: usize = 16;
const TCMSG_LEN: usize = 20;

/// Asks rtnetlink about traffic control on an interface: the answers' types and contents, up to the last one.
fn ask(kind: u16, flags: libc::c_int, ifindex: u32, handle: u32, parent: u32) -> Result<Vec<(u16, Vec<u8>)>, Errno> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | flags).map_err(|_| Errno::EINVAL)?;
    let mut request = Vec::with_capacity(HEADER_LEN + TCMSG_LEN);
    request.extend(((HEADER_LEN + TCMSG_LEN) as u32).to_ne_bytes());
    request.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    // Sequence number and port, which only tell apart what is not used here: several requests on one socket.
    request.extend([0; 8]);
    // Address family, padding; the last word is for single filters.
    for word in [0, ifindex, handle, parent, 0] {
        request.extend(word.to_ne_bytes());
    }
    let netlink: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
    let (mut answers, mut buffer) = (Vec::new(), vec![0; 1 << 15]);
    loop {
        let len = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..len];
        while let (Some(len), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let len = len as usize;
            let content = rest.get(HEADER_LEN..len).ok_or(Errno::EBADMSG)?;
            match libc::c_int::from(kind) {
                libc::NLMSG_DONE => return Ok(answers),
                libc::NLMSG_ERROR => match u32_at(content, 0).map(u32::cast_signed) {
                    Some(0) => return Ok(answers),
                    code => return Err(Errno::from_raw(-code.unwrap_or(-libc::EBADMSG))),
                },
                _ => answers.push((kind, content.to_vec())),
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}
