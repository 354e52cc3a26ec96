//! The only part that touches BPF and interfaces: it yields `Flow`s and per-interface totals.
//! Knows nothing of AWS, windows, formats or files.
//! Nothing is lost: an epoch is cleared only after the caller has taken what was in it.

mod attach;
mod btf;
mod clock;
mod clsact;
mod drain;
mod drops;
pub mod flow;
pub mod interfaces;
mod load;
mod reason;
#[expect(unsafe_code, reason = "mmap and bpf(2) have no safe wrapper")]
mod sys;
mod testrun;

use std::collections::BTreeMap;

use attach::Attachment;
pub use attach::Hook;
pub use drops::Unavailable;
use flow::Drained;
use interfaces::Interface;
use load::Loaded;
pub use load::Sizes;
pub use testrun::{DrainTimes, Offload};

/// What can go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    #[error("cannot load the eBPF programs: {0}")]
    Load(#[from] aya::EbpfError),
    #[error("eBPF program: {0}")]
    Program(#[from] aya::programs::ProgramError),
    #[error("eBPF map: {0}")]
    Map(#[from] aya::maps::MapError),
    #[error("{0}: an `ingress` qdisc is in the place of `clsact`; replace it by a clsact qdisc")]
    IngressQdisc(String),
    #[error("{0}: other TC filters hold the priorities 1 to 16; free one of them")]
    NoPriority(String),
    #[error("list interfaces: {0}")]
    Interfaces(#[from] nix::errno::Errno),
}

/// Whether this kernel tells why it drops a packet.
pub fn verdicts_available() -> Result<(), Unavailable> {
    drops::Kernel::read().map(drop)
}

/// The running capture: programs, tables and attachments.
pub struct Capture {
    loaded: Loaded,
    attached: BTreeMap<u32, (Interface, Attachment)>,
    hook: Option<Hook>,
}

impl Capture {
    /// Loads the programs; nothing is attached yet.
    pub fn open(sizes: Sizes) -> Result<Self, Error> {
        Ok(Self { loaded: load::load(sizes)?, attached: BTreeMap::new(), hook: None })
    }

    /// Attaches this way from now on, not the best one that the kernel has.
    pub fn attach_by(&mut self, hook: Hook) {
        self.hook = Some(hook);
    }

    /// Turns the kernel's verdicts on, for every drop of this network namespace from now on. Without them, every
    /// record is ACCEPT.
    pub fn watch_drops(&mut self) -> Result<(), Unavailable> {
        let kernel = match &self.loaded.kernel {
            Ok(kernel) => kernel,
            Err(unavailable) => return Err(Unavailable::Other(unavailable.to_string())),
        };
        let drops = drops::Drops::attach(&mut self.loaded.ebpf, kernel, self.loaded.sizes.cpus)
            .map_err(|error| Unavailable::Other(error.to_string()))?;
        self.loaded.drops = Some(drops);
        Ok(())
    }

    /// What the programs on drops have seen that is in no flow; none when they are not on.
    pub fn drop_report(&self) -> Result<Option<DropReport>, Error> {
        let Some(drops) = &self.loaded.drops else { return Ok(None) };
        Ok(Some(DropReport {
            lost: drops.losses()?,
            other_frees: drops.other_frees().into_iter().map(|(name, frees)| (name.to_owned(), frees)).collect(),
        }))
    }

    /// Attaches to every wanted interface that is not attached yet and lets go of the others. Returns what changed:
    /// attached, detached, and those that could not be attached with the reason (the next call tries again).
    pub fn sync(&mut self, wanted: &[Interface]) -> Changes {
        let mut changes = Changes::default();
        let gone = |attached: &Interface| !wanted.iter().any(|w| w.index == attached.index && w.bare == attached.bare);
        let leaving: Vec<u32> = self.attached.iter().filter(|(_, (i, _))| gone(i)).map(|(&index, _)| index).collect();
        for index in leaving {
            if let Some((interface, _attachment)) = self.attached.remove(&index) {
                changes.detached.push(interface);
            }
        }
        for interface in wanted {
            if let Some((known, _)) = self.attached.get_mut(&interface.index) {
                known.clone_from(interface);
                continue;
            }
            match attach::attach(&mut self.loaded.ebpf, interface, self.hook) {
                Ok(attachment) => {
                    changes.attached.push((interface.clone(), attachment.hook));
                    self.attached.insert(interface.index, (interface.clone(), attachment));
                }
                Err(error) => changes.failed.push((interface.clone(), error)),
            }
        }
        changes
    }

    /// Ends the current epoch and hands over what it counted. `take` must have made it safe when it returns: then
    /// the kernel's copy is cleared. Blocks for a grace period (about 10 ms).
    pub fn drain<E: From<Error>>(&mut self, take: impl FnOnce(Drained) -> Result<(), E>) -> Result<(), E> {
        self.drain_after_step(0, take)
    }

    /// As [`Self::drain`], just after the wall clock was stepped by so many nanoseconds: what was counted is dated by
    /// the clock as it was.
    pub fn drain_after_step<E: From<Error>>(
        &mut self,
        stepped: i64,
        take: impl FnOnce(Drained) -> Result<(), E>,
    ) -> Result<(), E> {
        let epoch = self.loaded.swap()?;
        let drained = self.loaded.read(epoch, stepped)?;
        take(drained)?;
        self.loaded.clear(epoch)?;
        Ok(())
    }

    /// Hands the programs' own warnings to the log.
    pub fn flush_log(&mut self) {
        self.loaded.log.flush();
    }

    /// Whether a drain should not wait for the window's end.
    pub fn crowded(&self) -> bool {
        self.loaded.crowded()
    }

    pub fn attached(&self) -> impl Iterator<Item = &Interface> {
        self.attached.values().map(|(interface, _)| interface)
    }
}

/// Sums since the start.
#[derive(Clone, Debug, Default)]
pub struct DropReport {
    /// Policy drops that could not be counted under a flow, by cause.
    pub lost: Vec<(&'static str, u64)>,
    /// Frees for reasons that are no policy's, by reason, in all namespaces.
    pub other_frees: Vec<(String, u64)>,
}

/// What a sync changed.
#[derive(Default)]
pub struct Changes {
    pub attached: Vec<(Interface, Hook)>,
    pub detached: Vec<Interface>,
    pub failed: Vec<(Interface, Error)>,
}
