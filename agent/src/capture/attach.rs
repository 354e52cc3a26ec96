//! Puts the programs on an interface, first in both directions: TCX where the kernel has it, else clsact.
//! Knows nothing of flows. Never touches another's program, qdisc or setting; dropping an attachment detaches it.
#![forbid(unsafe_code)]

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, TcError};

use super::Error;
use super::clsact;
use super::interfaces::Interface;
use super::load::program;

/// How the programs hang on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Tcx,
    Clsact,
}

/// Both programs of one interface. Dropping it detaches them.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) hook: Hook,
    // Dropped in this order: the filters, then the qdisc that they are on.
    _links: [SchedClassifierLink; 2],
    _qdisc: Option<clsact::Made>,
}

/// Priorities tried for a clsact filter. One of another kind or protocol keeps its priority to itself.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=16;

fn attach_tcx(program: &mut SchedClassifier, device: &str, at: TcAttachType) -> Result<SchedClassifierLink, Error> {
    // Also on egress: a program that says anything but "next" (TC_ACT_OK is usual) ends the chain, and behind it we
    // would miss every packet without knowing.
    let id = program.attach_with_options(device, at, TcAttachOptions::TcxOrder(LinkOrder::first()))?;
    Ok(program.take_link(id)?)
}

/// A filter that matches ends the walk as well.
fn attach_clsact(program: &mut SchedClassifier, device: &str, at: TcAttachType) -> Result<SchedClassifierLink, Error> {
    for priority in PRIORITIES {
        let options = TcAttachOptions::Netlink(NlOptions { priority, ..Default::default() });
        match program.attach_with_options(device, at, options) {
            Ok(id) => {
                if priority != *PRIORITIES.start() {
                    tracing::warn!(interface = device, ?at, "a filter comes first: what it decides on is not counted");
                }
                return Ok(program.take_link(id)?);
            }
            Err(ProgramError::TcError(TcError::NetlinkError(e))) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::NoPriority(device.to_owned()))
}

/// Attaches both programs. `hook`: this way and no other.
pub(crate) fn attach(ebpf: &mut Ebpf, interface: &Interface, hook: Option<Hook>) -> Result<Attachment, Error> {
    let programs = if interface.bare { ["ingress_bare", "egress_bare"] } else { ["ingress", "egress"] };
    attach_programs(ebpf, interface, programs, hook)
}

/// Attaches these two: the ingress program, then the egress one.
pub(crate) fn attach_programs(
    ebpf: &mut Ebpf,
    interface: &Interface,
    [ingress, egress]: [&'static str; 2],
    hook: Option<Hook>,
) -> Result<Attachment, Error> {
    let mut both = |hook| -> Result<Attachment, Error> {
        let (attach_one, qdisc): (fn(&mut _, &_, _) -> _, _) = match hook {
            Hook::Tcx => (attach_tcx, None),
            Hook::Clsact => (attach_clsact, clsact::ensure(interface)?),
        };
        let ingress = attach_one(program(ebpf, ingress)?, &interface.name, TcAttachType::Ingress)?;
        let egress = attach_one(program(ebpf, egress)?, &interface.name, TcAttachType::Egress)?;
        Ok(Attachment { hook, _links: [ingress, egress], _qdisc: qdisc })
    };
    match both(hook.unwrap_or(Hook::Tcx)) {
        // TCX came with Linux 6.6.
        Err(Error::Program(ProgramError::SyscallError(e)))
            if hook.is_none() && e.io_error.raw_os_error() == Some(libc::EINVAL) =>
        {
            both(Hook::Clsact)
        }
        result => result,
    }
}
