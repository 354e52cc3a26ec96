//! Attaches the programs on `kfree_skb`, or finds them attached by a former agent. Such a link cannot be updated
//! (EINVAL), so these stay where they are and only the handler in which they go on is replaced.
//! Knows nothing of drops.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::programs::ProgramInfo;
use aya::programs::links::{FdLink, PinnedLink};

use super::Error;
use super::drops::tracepoint;
use super::pin::{self, Pins, STUBS};
use super::sys;

/// Those of them that count.
const COUNTING: [&str; 2] = ["drop_first", "drop_second"];

/// The handler must be in its slot.
pub(crate) fn attach(ebpf: &mut Ebpf, pins: Option<&Pins>) -> Result<(), Error> {
    let Some(pins) = pins else {
        // In this order they run.
        for name in STUBS {
            tracepoint(ebpf, name)?.attach()?;
        }
        return Ok(());
    };
    if is_attached(ebpf, pins)? {
        return Ok(());
    }
    detach(pins);
    for name in STUBS {
        let program = tracepoint(ebpf, name)?;
        let id = program.attach()?;
        let pinned = FdLink::from(program.take_link(id)?).pin(pins.stub(name)).map(drop);
        pinned
            .and_then(|()| program.pin(pins.shared(name)))
            .map_err(|e| Error::Io { what: "pin the drop programs", source: std::io::Error::other(e) })?;
    }
    Ok(())
}

/// Whether a former agent's programs are attached, and are what ours are: the tag is a digest of the instructions.
fn is_attached(ebpf: &mut Ebpf, pins: &Pins) -> Result<bool, Error> {
    for name in STUBS {
        let ours = tracepoint(ebpf, name)?.info()?;
        let theirs = ProgramInfo::from_pin(pins.shared(name));
        let program = PinnedLink::from_pin(pins.stub(name)).and_then(|link| FdLink::from(link).info());
        let same = match (theirs, program) {
            (Ok(theirs), Ok(link)) => theirs.tag() == ours.tag() && link.program_id() == theirs.id(),
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How often the kernel left each of the two that count out because it was already running on that CPU, since they were
/// attached, by this agent or a former one. What one misses the other counts.
pub(crate) fn recursion_misses(ebpf: &mut Ebpf, pins: Option<&Pins>) -> Result<[u64; 2], Error> {
    let mut misses = [0; 2];
    for (misses, name) in misses.iter_mut().zip(COUNTING) {
        let read =
            |result: std::io::Result<u64>| result.map_err(|source| Error::Io { what: "read program info", source });
        *misses = match pins {
            // Somebody has removed the pin: not known any more.
            Some(pins) if !pins.shared(name).exists() => 0,
            Some(pins) => {
                read(sys::pinned(&pins.shared(name)).and_then(|program| sys::recursion_misses(program.as_fd())))?
            }
            None => read(sys::recursion_misses(tracepoint(ebpf, name)?.fd()?.as_fd()))?,
        };
    }
    Ok(misses)
}

/// Detaches what a former agent, or we, have attached.
pub(crate) fn detach(pins: &Pins) {
    for path in STUBS.iter().flat_map(|name| [pins.stub(name), pins.shared(name)]) {
        if let Err(error) = pin::gone(fs::remove_file(&path)) {
            tracing::warn!(%error, path = %path.display(), "cannot unpin");
        }
    }
}
