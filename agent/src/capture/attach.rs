//! Puts the programs on an interface: TCX where the kernel has it, first on ingress and last on egress, else clsact.
//! Knows nothing of flows. Never touches another's program, qdisc or setting; dropping an attachment detaches it.
#![forbid(unsafe_code)]

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{ProgramError, TcAttachType};

use super::Error;
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
    _links: [SchedClassifierLink; 2],
}

fn attach_one(
    ebpf: &mut Ebpf,
    interface: &Interface,
    name: &'static str,
    at: TcAttachType,
    hook: Hook,
) -> Result<SchedClassifierLink, Error> {
    let options = match (hook, at) {
        // Before any program that redirects or drops, after any that changes what leaves.
        (Hook::Tcx, TcAttachType::Ingress) => TcAttachOptions::TcxOrder(LinkOrder::first()),
        (Hook::Tcx, _) => TcAttachOptions::TcxOrder(LinkOrder::last()),
        (Hook::Clsact, TcAttachType::Ingress) => {
            TcAttachOptions::Netlink(NlOptions { priority: 1, ..Default::default() })
        }
        (Hook::Clsact, _) => TcAttachOptions::Netlink(NlOptions::default()),
    };
    let program = program(ebpf, name)?;
    let id = program.attach_with_options(&interface.name, at, options)?;
    Ok(program.take_link(id)?)
}

/// Attaches both programs.
pub(crate) fn attach(ebpf: &mut Ebpf, interface: &Interface) -> Result<Attachment, Error> {
    attach_programs(
        ebpf,
        interface,
        if interface.bare { ["ingress_bare", "egress_bare"] } else { ["ingress", "egress"] },
    )
}

/// Attaches these two: the ingress program, then the egress one.
pub(crate) fn attach_programs(
    ebpf: &mut Ebpf,
    interface: &Interface,
    [ingress, egress]: [&'static str; 2],
) -> Result<Attachment, Error> {
    let both = |ebpf: &mut Ebpf, hook| -> Result<Attachment, Error> {
        let ingress = attach_one(ebpf, interface, ingress, TcAttachType::Ingress, hook)?;
        let egress = attach_one(ebpf, interface, egress, TcAttachType::Egress, hook)?;
        Ok(Attachment { hook, _links: [ingress, egress] })
    };
    match both(ebpf, Hook::Tcx) {
        Err(Error::Program(ProgramError::SyscallError(e))) if e.io_error.raw_os_error() == Some(libc::EINVAL) => {
            // TCX came with Linux 6.6. A clsact qdisc that is there already is shared.
            match qdisc_add_clsact(&interface.name) {
                Ok(()) => {}
                Err(aya::programs::TcError::NetlinkError(_)) => {}
                Err(error) => return Err(Error::Program(error.into())),
            }
            both(ebpf, Hook::Clsact)
        }
        result => result,
    }
}
