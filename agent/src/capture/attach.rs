//! Puts the programs on an interface, first in both directions: TCX where the kernel has it, else clsact. What a former
//! agent left there is updated in place, so that no packet passes between two programs or sees both.
//! Knows nothing of flows. Never touches another's program, qdisc or setting; dropping an attachment detaches it.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::interfaces::Interface;
use super::load::program;
use super::pin::{self, Pins};
use super::{Error, clsact, filter, sys};

/// How the programs hang on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Tcx,
    Clsact,
}

/// A direction's place on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ingress,
    Egress,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    pub(crate) fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    pub(crate) fn is_egress(self) -> bool {
        self == Self::Egress
    }
}

/// Both programs of one interface. Dropping it detaches them.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) hook: Hook,
    programs: [&'static str; 2],
    // Dropped in this order: the filters, then the qdisc that they are on.
    places: [Place; 2],
    qdisc: Option<clsact::Made>,
    /// The last look found a place empty, and it could not be filled.
    broken: bool,
}

/// One program in its place.
#[derive(Debug)]
pub(crate) enum Place {
    Link { id: u32, _link: FdLink, pin: Option<PathBuf> },
    // None once it is no longer ours to remove.
    Filter { at: (u16, u32), link: Option<SchedClassifierLink> },
}

impl Place {
    /// Lets go of what somebody else has removed, or of what is to stay after us.
    fn forget(&mut self) {
        match self {
            Self::Link { pin, .. } => *pin = None,
            // Its removal would hit whoever has come to the same place.
            Self::Filter { link, .. } => std::mem::forget(link.take()),
        }
    }

    /// Which one it is of how many, from 0; none if it is not there. Of filters, only BPF's are counted.
    fn position(&self, ifindex: u32, side: Side, name: &str) -> io::Result<Option<(usize, usize)>> {
        let (position, all) = match self {
            Self::Link { id, .. } => {
                let links = sys::tcx_links(ifindex, side.is_egress())?;
                (links.iter().position(|link| link == id), links.len())
            }
            Self::Filter { at, .. } => {
                let filters = clsact::filters(ifindex, side.is_egress())?;
                let is_ours = |filter: &clsact::Filter| (filter.priority, filter.handle) == *at && filter.name == name;
                (filters.iter().position(is_ours), filters.len())
            }
        };
        Ok(position.map(|position| (position, all)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Link { pin: Some(path), .. } = self {
            unpin(path);
        }
    }
}

fn unpin(path: &Path) {
    if let Err(error) = pin::gone(fs::remove_file(path)) {
        tracing::warn!(%error, path = %path.display(), "cannot unpin: the program stays attached");
    }
}

/// What a look at an attachment found.
pub(crate) enum Look {
    Whole,
    /// Somebody else had removed a program. `Err`: it could not be put back; said once.
    Mended(Result<(), Option<Error>>),
}

impl Attachment {
    /// Leaves the programs where they are when this is dropped.
    pub(crate) fn stay(&mut self) {
        self.places.iter_mut().for_each(Place::forget);
        std::mem::forget(self.qdisc.take());
    }

    /// Of both programs: which one it is, 1 is first, and of how many.
    pub(crate) fn positions(&self, ifindex: u32) -> [Option<(u32, u32)>; 2] {
        [0, 1].map(|at| {
            let found = self.places[at].position(ifindex, Side::BOTH[at], self.programs[at]).ok()??;
            Some((u32::try_from(found.0 + 1).ok()?, u32::try_from(found.1).ok()?))
        })
    }

    /// Takes note that nobody needs to know who made the qdisc any more.
    fn unmark(&self, ifindex: u32, pins: Option<&Pins>) {
        if let (Some(pins), Some(_)) = (pins, &self.qdisc) {
            pins.mark_qdisc(ifindex, false);
        }
    }

    /// Detaches.
    pub(crate) fn detach(self, ifindex: u32, pins: Option<&Pins>) {
        self.unmark(ifindex, pins);
    }

    /// Puts back what somebody else has removed.
    pub(crate) fn mend(&mut self, ebpf: &mut Ebpf, interface: &Interface, pins: Option<&Pins>) -> Look {
        // An interface that is gone (ENODEV) is no fault of its programs.
        let empty = |at: usize| {
            let position = self.places[at].position(interface.index, Side::BOTH[at], self.programs[at]);
            matches!(position, Ok(None))
        };
        let missing: Vec<usize> = (0..2).filter(|&at| empty(at)).collect();
        if missing.is_empty() {
            self.broken = false;
            return Look::Whole;
        }
        let was_broken = std::mem::replace(&mut self.broken, true);
        let result = self.put_back(ebpf, interface, pins, &missing);
        self.broken = result.is_err();
        Look::Mended(result.map_err(|error| (!was_broken).then_some(error)))
    }

    fn put_back(
        &mut self,
        ebpf: &mut Ebpf,
        interface: &Interface,
        pins: Option<&Pins>,
        missing: &[usize],
    ) -> Result<(), Error> {
        if self.hook == Hook::Clsact && missing.len() == 2 {
            // The qdisc went with its filters. If there is one now, it is another's.
            std::mem::forget(self.qdisc.take());
            self.qdisc = qdisc(interface, pins, false)?;
        }
        for &at in missing {
            let side = Side::BOTH[at];
            let place = attach_one(program(ebpf, self.programs[at])?, interface, side, self.hook, pins)?;
            std::mem::replace(&mut self.places[at], place).forget();
        }
        Ok(())
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    interface: &Interface,
    side: Side,
    pins: Option<&Pins>,
) -> Result<Place, Error> {
    let mut pin = pins.map(|pins| pins.link(interface.index, side));
    if let Some(path) = &pin {
        match take_over(program, interface, side, path)? {
            Left::Link(id, link) => return Ok(Place::Link { id, _link: link, pin }),
            Left::Nothing => {}
            Left::Foreign => pin = None,
        }
    }
    let link = attach_tcx_anew(program, interface, side)?;
    let id = link.info().map_err(link_error)?.id();
    let Some(path) = pin else { return Ok(Place::Link { id, _link: link, pin: None }) };
    match link.pin(&path) {
        Ok(link) => Ok(Place::Link { id, _link: link.into(), pin: Some(path) }),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot pin: the link ends with this agent");
            let link = attach_tcx_anew(program, interface, side)?;
            Ok(Place::Link { id: link.info().map_err(link_error)?.id(), _link: link, pin: None })
        }
    }
}

fn link_error(error: LinkError) -> Error {
    Error::Io { what: "look at a link", source: io::Error::other(error) }
}

/// What is pinned where a former agent's link would be.
enum Left {
    /// A former agent's link, updated.
    Link(u32, FdLink),
    Nothing,
    /// Another's: it stays.
    Foreign,
}

/// Updates a former agent's link in place, if it is on this very interface: one whose interface is gone stays pinned, and
/// an ifindex may come again.
fn take_over(program: &mut SchedClassifier, interface: &Interface, side: Side, path: &Path) -> Result<Left, Error> {
    if !path.exists() {
        return Ok(Left::Nothing);
    }
    let found = PinnedLink::from_pin(path).and_then(|pinned| {
        let link = FdLink::from(pinned);
        let id = link.info()?.id();
        Ok((id, SchedClassifierLink::try_from(link)?))
    });
    let (id, link) = match found {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "not a link of ours: left alone, and nothing is pinned there");
            return Ok(Left::Foreign);
        }
    };
    let here = sys::tcx_links(interface.index, side.is_egress())
        .map_err(|source| Error::Io { what: "look at the interface's hook", source })?;
    if here.contains(&id) {
        match program.attach_to_link(link) {
            Ok(link) => return Ok(Left::Link(id, program.take_link(link)?.try_into().map_err(link_error)?)),
            // Its interface went away in this moment.
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(error.into()),
        }
    }
    unpin(path);
    Ok(Left::Nothing)
}

fn attach_tcx_anew(program: &mut SchedClassifier, interface: &Interface, side: Side) -> Result<FdLink, Error> {
    // Also on egress: a program that says anything but "next" (TC_ACT_OK is usual) ends the chain, and behind it we
    // would miss every packet without knowing.
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&interface.name, side.attach_type(), first)?;
    program.take_link(id)?.try_into().map_err(link_error)
}

fn attach_one(
    program: &mut SchedClassifier,
    interface: &Interface,
    side: Side,
    hook: Hook,
    pins: Option<&Pins>,
) -> Result<Place, Error> {
    match hook {
        Hook::Tcx => attach_tcx(program, interface, side, pins),
        Hook::Clsact => filter::attach(program, interface, side, pins),
    }
}

/// The interface's qdisc, if we made it: now, or `before` as a former agent noted.
fn qdisc(interface: &Interface, pins: Option<&Pins>, before: bool) -> Result<Option<clsact::Made>, Error> {
    let made = clsact::ensure(interface)?;
    let before = before && pins.is_some_and(|pins| pins.made_qdisc(interface.index));
    let made = made.or_else(|| before.then(|| clsact::Made::before(interface)));
    if let Some(pins) = pins {
        pins.mark_qdisc(interface.index, made.is_some());
    }
    Ok(made)
}

/// Attaches both programs. `hook`: this way and no other.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    interface: &Interface,
    hook: Option<Hook>,
    pins: Option<&Pins>,
) -> Result<Attachment, Error> {
    let programs = if interface.bare { ["ingress_bare", "egress_bare"] } else { ["ingress", "egress"] };
    attach_programs(ebpf, interface, programs, hook, pins)
}

/// Attaches these two: the ingress program, then the egress one.
pub(crate) fn attach_programs(
    ebpf: &mut Ebpf,
    interface: &Interface,
    programs: [&'static str; 2],
    hook: Option<Hook>,
    pins: Option<&Pins>,
) -> Result<Attachment, Error> {
    let mut both = |hook| -> Result<Attachment, Error> {
        let qdisc = if hook == Hook::Clsact { qdisc(interface, pins, true)? } else { None };
        let [ingress, egress] = programs;
        let ingress = attach_one(program(ebpf, ingress)?, interface, Side::Ingress, hook, pins)?;
        let egress = attach_one(program(ebpf, egress)?, interface, Side::Egress, hook, pins)?;
        Ok(Attachment { hook, programs, places: [ingress, egress], qdisc, broken: false })
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
