//! Loads the programs and sizes the tables from CPUs and RAM. Knows nothing of interfaces.
#![forbid(unsafe_code)]

use agent_common::drop::{DropKey, REASONS};
use agent_common::flow::{Set4, Set6, WAYS, WideCounters, WideKey};
use agent_common::interface::InterfaceSet;
use aya::maps::{Array, Map, MapData, RingBuf};
use aya::programs::{SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use log::Log;

use super::Error;
use super::clock::{Reading, Ticks};
use super::drops::{Drops, Kernel, Unavailable};
use super::pin::{self, Pins};
use super::sys::GracePeriod;
use super::tables::Tables;
use super::{takeover, testrun};

/// The object that `build.rs` compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-ebpf"));

/// A 128th of RAM for the tables, at most 16,384 IPv4 sets (65,536 flows) a CPU: more sets cost cache and TLB misses
/// on every packet, and an early drain is cheaper than that.
const RAM_SHARE: u64 = 128;
const SETS4_MAX: u64 = 16_384;
const SETS4_MIN: u64 = 256;
const OVERFLOW_DEFAULT: u32 = 16_384;
/// 1,024 entries a CPU: 512 interfaces in both directions before the overflow hash takes the others.
const SETS_INTERFACE: u32 = 256;

/// Sizes of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Possible CPUs.
    pub cpus: u32,
    /// Sets of one CPU and epoch, a power of two, at least 2.
    pub sets4: u32,
    pub sets6: u32,
    pub sets_interface: u32,
    /// Entries of the overflow hash.
    pub overflow: u32,
    /// Entries of the hash of rejected flows.
    pub drops: u32,
    /// Entries of the benchmark's hash. Above 1 loads `ingress_hash`, which an agent never does.
    pub yardstick: u32,
}

impl Sizes {
    /// Default sizes for this many possible CPUs and this much RAM.
    #[must_use]
    pub fn for_machine(cpus: u32, ram_bytes: u64) -> Self {
        let per_set = 2 * u64::from(cpus) * (size_of::<Set4>() as u64 + size_of::<Set6>() as u64 / 2);
        let wanted = (ram_bytes / RAM_SHARE / per_set.max(1)).clamp(SETS4_MIN, SETS4_MAX);
        let sets4 = 1 << wanted.ilog2();
        Self {
            cpus,
            sets4,
            sets6: sets4 / 2,
            sets_interface: SETS_INTERFACE,
            overflow: OVERFLOW_DEFAULT,
            // Shared by the CPUs: as many as one CPU's flows.
            drops: sets4 * 4,
            yardstick: 1,
        }
    }

    /// IPv4 flows of one CPU and epoch.
    #[must_use]
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.sets4 = (slots / 4).max(2).next_power_of_two();
        self.sets6 = (self.sets4 / 2).max(2);
        self
    }

    /// User space is woken for every 16th of the refused flows that there is room for.
    fn refused_mask(&self) -> u32 {
        (self.drops / 16).max(1).next_power_of_two() - 1
    }

    /// Of what flows are counted in: name, entries of one epoch over all CPUs, and the kernel's memory.
    pub(crate) fn tables(&self) -> [(&'static str, u64, u64); 4] {
        let cpus = u64::from(self.cpus);
        let flat =
            |sets: u32, bytes: usize| (u64::from(sets) * WAYS as u64 * cpus, 2 * cpus * u64::from(sets) * bytes as u64);
        // kernel/bpf/hashtab.c: an element's head and its place in the buckets, the key, and a value or one for each CPU.
        let hash = |entries: u32, key: usize, values: u64| {
            (u64::from(entries), u64::from(entries) * (64 + key as u64 + values * size_of::<WideCounters>() as u64))
        };
        let (flow4, flow6) = (flat(self.sets4, size_of::<Set4>()), flat(self.sets6, size_of::<Set6>()));
        let overflow = hash(self.overflow, size_of::<WideKey>(), cpus);
        let drops = hash(self.drops, size_of::<DropKey>(), 1);
        [("ipv4", flow4), ("ipv6", flow6), ("overflow", overflow), ("rejected", drops)]
            .map(|(name, (capacity, bytes))| (name, capacity, bytes))
    }

    /// Of all tables, also those of interfaces.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let interfaces = 2 * u64::from(self.cpus) * u64::from(self.sets_interface) * size_of::<InterfaceSet>() as u64;
        interfaces + self.tables().iter().map(|(.., bytes)| bytes).sum::<u64>()
    }

    /// Bytes of the mapped tables.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        let sets = |sets: u32, bytes: usize| u64::from(sets) * bytes as u64;
        2 * u64::from(self.cpus)
            * (sets(self.sets4, size_of::<Set4>())
                + sets(self.sets6, size_of::<Set6>())
                + sets(self.sets_interface, size_of::<InterfaceSet>()))
    }
}

/// Everything the kernel holds for us.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    pub(crate) ticks: Ticks,
    pub(crate) tables: Tables,
    pub(crate) grace: GracePeriod,
    /// What the drop programs need to know, or why they cannot run here.
    pub(crate) kernel: Result<Kernel, Unavailable>,
    /// Once turned on.
    pub(crate) drops: Option<Drops>,
    clock: Array<MapData, u64>,
    /// Tables fill up.
    pub(crate) wake: RingBuf<MapData>,
    /// The programs' own warnings.
    pub(crate) log: EbpfLogger<&'static dyn Log>,
}

fn seed() -> Result<u64, Error> {
    let bytes = std::fs::File::open("/dev/urandom").and_then(|mut file| {
        let mut bytes = [0; 8];
        std::io::Read::read_exact(&mut file, &mut bytes).map(|()| bytes)
    });
    bytes.map(u64::from_ne_bytes).map_err(|source| Error::Io { what: "read /dev/urandom", source })
}

/// Loads all programs and maps; `pins` keeps the maps over our end.
pub(crate) fn load(sizes: Sizes, pins: Option<&Pins>) -> Result<Loaded, Error> {
    let ticks = Ticks::of_kernel().map_err(|e| Error::Io { what: "read the coarse clock", source: e.into() })?;
    let shift = |sets: u32| 64 - sets.ilog2();
    let (shift4, shift6, seed) = (shift(sizes.sets4), shift(sizes.sets6), seed()?);
    let kernel = Kernel::read();
    let mut loader = EbpfLoader::new();
    if let Ok(kernel) = &kernel {
        kernel.set(&mut loader);
    }
    if let Some(pins) = pins {
        takeover::check_shared(pins, &sizes);
        for name in pin::COUNTING {
            loader.map_pin_path(name, pins.map(name));
        }
        for name in pin::SHARED {
            loader.map_pin_path(name, pins.shared(name));
        }
    }
    let mut ebpf = loader
        .override_global("CPUS", &sizes.cpus, true)
        .override_global("SEED", &seed, true)
        .override_global("SETS4", &sizes.sets4, true)
        .override_global("SHIFT4", &shift4, true)
        .override_global("SETS6", &sizes.sets6, true)
        .override_global("SHIFT6", &shift6, true)
        .override_global("SETS_INTERFACE", &sizes.sets_interface, true)
        .override_global("TIME_SHIFT", &ticks.shift, true)
        .override_global("REFUSED_MASK", &sizes.refused_mask(), true)
        .map_max_entries("FLOW4", sizes.sets4 * sizes.cpus * 2)
        .map_max_entries("FLOW6", sizes.sets6 * sizes.cpus * 2)
        .map_max_entries("INTERFACES", sizes.sets_interface * sizes.cpus * 2)
        .map_max_entries("OVERFLOW", sizes.overflow)
        .map_max_entries("YARDSTICK", sizes.yardstick)
        .map_max_entries("DROPS", sizes.drops)
        .map_max_entries("DROP_REASONS", sizes.cpus * REASONS)
        .map_max_entries("HAND_OFF", sizes.cpus)
        .load(OBJECT)?;
    let log = EbpfLogger::init(&mut ebpf)
        .map_err(|e| Error::Io { what: "read the programs' log", source: std::io::Error::other(e) })?;
    for name in ["ingress", "egress", "ingress_bare", "egress_bare", "clock", "empty"] {
        program(&mut ebpf, name)?.load()?;
    }
    if sizes.yardstick > 1 {
        testrun::load(&mut ebpf)?;
    }
    let tables = Tables::new(sizes, |name| match ebpf.take_map(name) {
        Some(Map::Array(data) | Map::HashMap(data) | Map::PerCpuHashMap(data)) => Ok(data),
        _ => Err(Error::Missing(name)),
    })?;
    if let Some(pins) = pins {
        pins.complete().map_err(|source| Error::Io { what: "pin the maps", source })?;
    }
    Ok(Loaded {
        tables,
        drops: None,
        wake: ebpf.take_map("WAKE").ok_or(Error::Missing("WAKE"))?.try_into()?,
        clock: ebpf.take_map("CLOCK").ok_or(Error::Missing("CLOCK"))?.try_into()?,
        grace: GracePeriod::new().map_err(|source| Error::Io { what: "create the grace-period map", source })?,
        log,
        kernel,
        ebpf,
        ticks,
    })
}

pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    Ok(ebpf.program_mut(name).ok_or(Error::Missing(name))?.try_into()?)
}

impl Loaded {
    /// Reads jiffies and wall clock at one moment. `stepped`: nanoseconds to take off the wall clock again, which was
    /// stepped after what is to be dated.
    pub(crate) fn read_clock(&mut self, stepped: i64) -> Result<Reading, Error> {
        let program = program(&mut self.ebpf, "clock")?;
        // The least that BPF_PROG_TEST_RUN accepts is an Ethernet header.
        let packet = [0; 14];
        program.test_run(TestRunOptions {
            data_in: Some(&packet),
            attrs: TestRunAttrs::new(),
            ..Default::default()
        })?;
        let jiffies = self.clock.get(&0, 0)?;
        let now = std::time::SystemTime::now();
        let distance = std::time::Duration::from_nanos(stepped.unsigned_abs());
        let before = if stepped < 0 { now.checked_add(distance) } else { now.checked_sub(distance) };
        Ok(Reading::new(self.ticks, jiffies, before.unwrap_or(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_cpus_and_ram() {
        let gib = 1 << 30;
        for (cpus, ram, sets4) in
            [(2, 24 * gib, 16_384), (64, 256 * gib, 16_384), (64, 16 * gib, 4_096), (4, gib / 2, 2_048)]
        {
            let sizes = Sizes::for_machine(cpus, ram);
            assert_eq!(sizes.sets4, sets4, "{cpus} CPUs, {ram} bytes");
            assert!(sizes.table_bytes() <= (ram / RAM_SHARE).max(1 << 20) + u64::from(cpus) * 262_144);
        }
    }

    #[test]
    fn slots_are_rounded_up_to_sets() {
        let sizes = Sizes::for_machine(2, 1 << 30);
        for (slots, sets4) in [(0, 2), (1, 2), (8, 2), (1024, 256), (1025, 256), (1028, 512)] {
            assert_eq!(sizes.with_slots(slots).sets4, sets4, "{slots}");
        }
    }
}
