//! The only part that touches BPF and interfaces: it yields `Flow`s and per-interface totals.
//! Knows nothing of AWS, windows, formats or files.
//! Nothing is lost: an epoch is cleared only after the caller has taken what was in it, and what is pinned counts on
//! while no agent runs.

mod attach;
mod btf;
mod chain;
mod clock;
mod clsact;
mod detach;
mod drain;
mod drops;
mod filter;
pub mod flow;
mod generation;
pub mod interfaces;
mod load;
mod pin;
mod reason;
mod refusal;
mod stubs;
#[expect(unsafe_code, reason = "mmap and bpf(2) have no safe wrapper")]
mod sys;
mod tables;
mod takeover;
mod testrun;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fault;
pub use attach::Hook;
use attach::{Attachment, Look};
pub use chain::{Hanging, hanging};
pub use clock::Span;
pub use detach::detach;
use drain::Fill;
pub use drain::{Census, TableUse};
pub use drops::Unavailable;
use flow::Drained;
pub use generation::Generation;
use interfaces::Interface;
use load::Loaded;
pub use load::Sizes;
use nix::fcntl::Flock;
pub use pin::{DEFAULT_DIRECTORY, PinError, Pins};
pub(crate) use sys::{clear_ambient_capabilities, trim_heap};
pub use takeover::Adopted;
pub use testrun::{DrainTimes, Offload};

/// Between looks at hashes of a quiet host, which cost as much as all else that an idle agent does. Where a glance at the
/// sets finds flows, hashes are looked at each time: what is refused on its way in is in the sets as well. A host that
/// sends nothing but what it refuses itself fills a hash of refused flows in a quarter of a second at 260,000 new ones a
/// second.
const HASHES_LOOK: Duration = Duration::from_millis(250);

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
    #[error("{0}: a former agent's filter cannot be removed; CAP_NET_ADMIN is needed")]
    FilterStays(String),
    #[error("list interfaces: {0}")]
    Interfaces(#[from] nix::errno::Errno),
}

/// Whether this kernel tells why it drops a packet.
pub fn verdicts_available() -> Result<(), Unavailable> {
    drops::Kernel::read().map(drop)
}

/// Whether somebody keeps the wall clock right, as far as the kernel knows.
pub fn clock_is_synchronised() -> std::io::Result<bool> {
    sys::clock_is_synchronised()
}

/// The running capture: programs, tables and attachments. Dropping it leaves what is pinned: see [`Capture::close`].
pub struct Capture {
    loaded: Loaded,
    /// When they are looked at again, if not at once.
    hashes_due: Instant,
    attached: BTreeMap<u32, (Interface, Attachment)>,
    hook: Option<Hook>,
    pins: Option<Pins>,
    generation: Generation,
    /// Generations of former agents that are read and not freed yet.
    adopted: Vec<Generation>,
    /// Interfaces that are no longer attached and may have counters in this epoch.
    departed: Vec<u32>,
}

/// Locks a directory as an agent does that pins below it. None: there is no such directory.
pub fn lock(directory: &Path) -> Result<Option<Flock<File>>, PinError> {
    pin::lock(directory)
}

impl Capture {
    /// Loads the programs; nothing is attached yet, and nothing will stay after us.
    pub fn open(sizes: Sizes) -> Result<Self, Error> {
        Self::load(sizes, None)
    }

    /// As [`Self::open`], with everything pinned. Attach, and then [`Self::adopt`] what a former agent left there.
    pub fn open_pinned(sizes: Sizes, pins: Pins) -> Result<Self, Error> {
        takeover::look_around(&pins);
        Self::load(sizes, Some(pins))
    }

    fn load(sizes: Sizes, pins: Option<Pins>) -> Result<Self, Error> {
        let loaded = load::load(sizes, pins.as_ref());
        if let (Err(_), Some(pins)) = (&loaded, &pins) {
            pins.remove(pins.generation());
        }
        let loaded = loaded?;
        let generation = pins.as_ref().map_or_else(Generation::new, Pins::generation);
        let (attached, adopted, departed) = Default::default();
        let hashes_due = Instant::now();
        Ok(Self { loaded, attached, hook: None, pins, generation, adopted, departed, hashes_due })
    }

    /// Names our maps among all agents' of this boot.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the kernel side stays when we end without [`Self::close`].
    pub fn is_pinned(&self) -> bool {
        self.pins.as_ref().is_some_and(Pins::are_there)
    }

    /// The epoch that is counted in, which the next drain ends.
    pub fn epoch(&self) -> u32 {
        self.loaded.tables.epoch()
    }

    /// Detaches everything and leaves nothing pinned, but for former agents' counters that were not released.
    pub fn close(&mut self) {
        for (ifindex, (_, attachment)) in std::mem::take(&mut self.attached) {
            attachment.detach(ifindex, self.pins.as_ref());
        }
        if let Some(pins) = self.pins.take() {
            stubs::detach(&pins);
            pins.close();
        }
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
        let cpus = self.loaded.tables.sizes.cpus;
        let drops = drops::Drops::attach(&mut self.loaded.ebpf, kernel, cpus, self.pins.as_ref())
            .map_err(|error| Unavailable::Other(error.explained()))?;
        self.loaded.drops = Some(drops);
        Ok(())
    }

    /// Names of what refuses packets, by the running kernel's numbers; none when its verdicts are not asked for.
    pub fn policies(&self) -> BTreeMap<u16, String> {
        self.loaded.drops.as_ref().map(drops::Drops::policies).unwrap_or_default()
    }

    /// What the programs on drops have seen that is in no flow; none when they are not on.
    pub fn drop_report(&mut self) -> Result<Option<DropReport>, Error> {
        let Some(drops) = &self.loaded.drops else { return Ok(None) };
        let nested = stubs::recursion_misses(&mut self.loaded.ebpf, self.pins.as_ref())?;
        Ok(Some(DropReport {
            nested,
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
            if let Some((interface, attachment)) = self.attached.remove(&index) {
                attachment.detach(index, self.pins.as_ref());
                self.departed.push(index);
                changes.detached.push(interface);
            }
        }
        for interface in wanted {
            if let Some((known, _)) = self.attached.get_mut(&interface.index) {
                known.clone_from(interface);
                self.pins.iter().for_each(|pins| pins.keep_name(interface.index, &interface.name));
                continue;
            }
            match attach::attach(&mut self.loaded.ebpf, interface, self.hook, self.pins.as_ref()) {
                Ok(attachment) => {
                    self.pins.iter().for_each(|pins| pins.keep_name(interface.index, &interface.name));
                    changes.attached.push((interface.clone(), attachment.hook));
                    self.attached.insert(interface.index, (interface.clone(), attachment));
                }
                Err(error) => changes.failed.push((interface.clone(), error)),
            }
        }
        changes
    }

    /// Puts programs back that somebody else has taken off an interface: `rehooked` are those interfaces, whose packets
    /// were not counted since the last look. Two system calls for each interface.
    pub fn mend(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (interface, attachment) in self.attached.values_mut() {
            if let Look::Mended(result) = attachment.mend(&mut self.loaded.ebpf, interface, self.pins.as_ref()) {
                changes.rehooked.push(interface.clone());
                if let Err(Some(error)) = result {
                    changes.failed.push((interface.clone(), error));
                }
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
        let departed = std::mem::take(&mut self.departed);
        let epoch = self.loaded.tables.swap(&self.loaded.grace)?;
        let clock = self.loaded.read_clock(stepped)?;
        let drained = self.loaded.tables.read(epoch, &clock)?;
        fault::point("scanned");
        take(drained)?;
        self.loaded.tables.clear(epoch)?;
        fault::point("cleared");
        if let Some(pins) = &self.pins {
            pins.drained();
            let gone = departed.into_iter().filter(|index| !self.attached.contains_key(index));
            gone.for_each(|index| pins.forget_name(index));
        }
        Ok(())
    }

    /// The flows that the tables hold now, as the next drain would find them; a count may be a packet behind, and a flow
    /// that is being moved to the overflow hash may be seen before or behind that. Changes nothing.
    pub fn peek(&mut self) -> Result<Drained, Error> {
        let clock = self.loaded.read_clock(0)?;
        self.loaded.tables.read(self.loaded.tables.epoch(), &clock)
    }

    /// What the tables hold now. Changes nothing.
    pub fn census(&self) -> Result<Census, Error> {
        self.loaded.tables.census()
    }

    /// How the programs hang on each interface, and on ingress and egress which place they have among how many: 1 is
    /// first, none is not found. Two system calls for each interface.
    pub fn hooks(&self) -> impl Iterator<Item = (u32, Hook, [Option<(u32, u32)>; 2])> {
        self.attached
            .values()
            .map(|(interface, attachment)| (interface.index, attachment.hook, attachment.positions(interface.index)))
    }

    /// Hands the programs' own warnings to the log.
    pub fn flush_log(&mut self) {
        self.loaded.log.flush();
    }

    /// Whether a drain should not wait for the window's end.
    pub fn crowded(&mut self) -> bool {
        let (sets, now) = (self.loaded.tables.sets_fill(), Instant::now());
        if sets == Fill::Crowded {
            return true;
        }
        if sets == Fill::Little && now < self.hashes_due {
            return false;
        }
        let hashes = self.loaded.tables.hashes_fill();
        if hashes == Fill::Little {
            self.hashes_due = now + HASHES_LOOK;
        }
        hashes == Fill::Crowded
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
    /// Frees within a free on one CPU, for which the kernel did not run the first and the second program again. Not a
    /// loss: the other one was run. At most the smaller of the two were seen by neither.
    pub nested: [u64; 2],
    /// Frees for reasons that are no policy's, by reason, in all namespaces.
    pub other_frees: Vec<(String, u64)>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Not closed: the next agent goes on with it.
        if self.pins.is_some() {
            self.attached.values_mut().for_each(|(_, attachment)| attachment.stay());
        }
    }
}

/// What a sync or a look changed.
#[derive(Default)]
pub struct Changes {
    pub attached: Vec<(Interface, Hook)>,
    pub detached: Vec<Interface>,
    pub failed: Vec<(Interface, Error)>,
    /// Programs were missing there; back again, unless it is among the failed.
    pub rehooked: Vec<Interface>,
}
