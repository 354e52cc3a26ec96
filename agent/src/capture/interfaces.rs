//! The host's interfaces and their addresses, and a descriptor that becomes readable when they change.
//! Knows nothing of BPF or AWS.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};

/// One interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub loopback: bool,
    /// No link-layer header: packets start with the IP header.
    pub bare: bool,
}

/// Hardware types whose packets start with an Ethernet header (include/uapi/linux/if_arp.h).
const ETHERNET_LIKE: [u16; 2] = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK];

/// Lists the interfaces, by index.
pub fn list() -> Result<Vec<Interface>, Errno> {
    let mut by_name: BTreeMap<String, Interface> = BTreeMap::new();
    let mut addresses: Vec<(String, IpAddr)> = Vec::new();
    for entry in getifaddrs()? {
        // An alias label (eth0:1) stands for its interface.
        let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
        let Some(address) = entry.address else {
            // A link without a link-layer address (tun, WireGuard, PPP): getifaddrs gives its name and flags only.
            let index = if_nametoindex(name.as_str()).unwrap_or_default();
            let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            by_name.entry(name.clone()).or_insert(Interface {
                index,
                name,
                addresses: Vec::new(),
                loopback,
                bare: true,
            });
            continue;
        };
        if let Some(link) = address.as_link_addr() {
            let interface = Interface {
                index: u32::try_from(link.ifindex()).unwrap_or_default(),
                name: name.clone(),
                addresses: Vec::new(),
                loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                bare: !ETHERNET_LIKE.contains(&link.hatype()),
            };
            by_name.insert(name, interface);
        } else if let Some(v4) = address.as_sockaddr_in() {
            addresses.push((name, v4.ip().into()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push((name, v6.ip().into()));
        }
    }
    for (name, address) in addresses {
        if let Some(interface) = by_name.get_mut(&name) {
            interface.addresses.push(address);
        }
    }
    let mut interfaces: Vec<Interface> = by_name.into_values().filter(|i| i.index != 0).collect();
    interfaces.sort_by_key(|i| i.index);
    Ok(interfaces)
}

/// Which network namespace this process is in: equal numbers, the same one.
#[must_use]
pub fn namespace() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/net").ok().map(|found| found.ino())
}

/// Multicast groups of rtnetlink (include/uapi/linux/rtnetlink.h): links, IPv4 and IPv6 addresses.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Tells that something about the interfaces has changed. What it was is found by listing again, so that a lost
/// message (ENOBUFS) loses nothing.
pub struct Watch {
    socket: OwnedFd,
}

impl Watch {
    pub fn new() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { socket })
    }

    /// Empties the socket; true if there was anything.
    pub fn changed(&self) -> bool {
        let (mut any, mut buffer) = (false, [0; 8192]);
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EINTR) => {}
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
