//! The maps that hold what was counted: our own, or those that a former agent left pinned.
//! A former agent's are of its own sizes; every property is checked before a byte is read.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use agent_common::Control;
use agent_common::drop::DropKey;
use agent_common::flow::{Set4, Set6, WideCounters, WideKey};
use agent_common::interface::{Count, InterfaceKey, InterfaceSet};
use aya::maps::{Map, MapData, MapInfo, MapType, PerCpuHashMap};

use super::Error;
use super::drops::DropHash;
use super::load::Sizes;
use super::sys::Mapped;

/// Words of the overflow hash's key and value, as in `agent_common::flow`.
pub(crate) type Overflow = PerCpuHashMap<MapData, [u64; 6], [u64; 5]>;
pub(crate) type InterfaceOverflow = PerCpuHashMap<MapData, [u32; 4], [u64; 2]>;

/// One agent's counting maps.
pub(crate) struct Tables {
    pub(crate) sizes: Sizes,
    pub(crate) control: Mapped,
    pub(crate) flow4: Mapped,
    pub(crate) flow6: Mapped,
    pub(crate) interfaces: Mapped,
    pub(crate) overflow: Overflow,
    /// The same map, for batch operations, which aya does not have.
    pub(crate) overflow_fd: OwnedFd,
    /// What the kernel calls possible: values of a per-CPU map.
    pub(crate) possible_cpus: usize,
    pub(crate) interface_overflow: InterfaceOverflow,
    pub(crate) dropped: DropHash,
    /// As `overflow_fd`.
    pub(crate) dropped_fd: OwnedFd,
    /// Keeps the mapped maps' descriptors: aya patches descriptor numbers when it loads programs.
    _maps: Vec<MapData>,
}

impl Tables {
    /// Takes the maps by their names.
    pub(crate) fn new(
        sizes: Sizes,
        mut take: impl FnMut(&'static str) -> Result<MapData, Error>,
    ) -> Result<Self, Error> {
        let cloned = |name, data: &MapData| {
            data.fd().as_fd().try_clone_to_owned().map_err(|source| Error::Io { what: name, source })
        };
        let (overflow, dropped) = (take("OVERFLOW")?, take("DROPS")?);
        let (overflow_fd, dropped_fd) = (cloned("OVERFLOW", &overflow)?, cloned("DROPS", &dropped)?);
        let interface_overflow = Map::PerCpuHashMap(take("INTERFACE_OVERFLOW")?).try_into()?;
        let mut maps = Vec::new();
        let mut mapped = |name: &'static str, bytes: u64| -> Result<Mapped, Error> {
            let data = take(name)?;
            let bytes =
                usize::try_from(bytes).map_err(|e| Error::Io { what: name, source: std::io::Error::other(e) })?;
            let mapped = Mapped::new(data.fd().as_fd(), bytes).map_err(|source| Error::Io { what: name, source })?;
            maps.push(data);
            Ok(mapped)
        };
        let both_halves = |sets: u32, bytes: usize| 2 * u64::from(sizes.cpus) * u64::from(sets) * bytes as u64;
        Ok(Self {
            control: mapped("CONTROL", size_of::<Control>() as u64)?,
            flow4: mapped("FLOW4", both_halves(sizes.sets4, size_of::<Set4>()))?,
            flow6: mapped("FLOW6", both_halves(sizes.sets6, size_of::<Set6>()))?,
            interfaces: mapped("INTERFACES", both_halves(sizes.sets_interface, size_of::<InterfaceSet>()))?,
            overflow: Map::PerCpuHashMap(overflow).try_into()?,
            overflow_fd,
            possible_cpus: aya::util::nr_cpus().map_err(|(what, source)| Error::Io { what, source })?,
            interface_overflow,
            dropped: Map::HashMap(dropped).try_into()?,
            dropped_fd,
            sizes,
            _maps: maps,
        })
    }

    /// A former agent's, pinned in `directory`. The error names the pin that is not what it should be.
    pub(crate) fn pinned(directory: &Path, cpus: u32) -> Result<Self, Unexpected> {
        let entries = |name: &'static str| -> Result<u32, Unexpected> {
            let info = MapInfo::from_pin(directory.join(name)).map_err(|e| Unexpected::new(directory, name, e))?;
            let (found, wanted) = (Shape::of(&info), Shape::wanted(name));
            if wanted != found {
                return Err(Unexpected::new(directory, name, format_args!("{found:?} where {wanted:?} is expected")));
            }
            Ok(info.max_entries())
        };
        let sets = |name: &'static str| -> Result<u32, Unexpected> {
            let found = entries(name)?;
            let sets = found / (2 * cpus).max(1);
            if sets < 2 || !sets.is_power_of_two() || sets * 2 * cpus != found {
                return Err(Unexpected::new(directory, name, format_args!("{found} entries for {cpus} CPUs")));
            }
            Ok(sets)
        };
        if entries("CONTROL")? != 1 {
            return Err(Unexpected::new(directory, "CONTROL", "more than one entry"));
        }
        entries("INTERFACE_OVERFLOW")?;
        let sizes = Sizes {
            cpus,
            sets4: sets("FLOW4")?,
            sets6: sets("FLOW6")?,
            sets_interface: sets("INTERFACES")?,
            overflow: entries("OVERFLOW")?,
            drops: entries("DROPS")?,
            yardstick: 1,
        };
        Self::new(sizes, |name| Ok(MapData::from_pin(directory.join(name))?))
            .map_err(|e| Unexpected { why: format!("{}: {e}", directory.display()) })
    }
}

/// A pin that is not what its name says.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Unexpected {
    why: String,
}

impl Unexpected {
    fn new(directory: &Path, name: &str, why: impl std::fmt::Display) -> Self {
        Self { why: format!("{}: {why}", directory.join(name).display()) }
    }
}

/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Everything about a map but its number of entries. Must match `agent-ebpf/src/maps.rs`.
#[derive(PartialEq, Debug)]
struct Shape {
    kind: Option<MapType>,
    key: u32,
    value: u32,
    flags: u32,
}

impl Shape {
    fn of(info: &MapInfo) -> Self {
        Self { kind: info.map_type().ok(), key: info.key_size(), value: info.value_size(), flags: info.map_flags() }
    }

    fn wanted(name: &str) -> Self {
        let shape = |kind, key: usize, value: usize, flags| Self {
            kind: Some(kind),
            key: key as u32,
            value: value as u32,
            flags,
        };
        let mapped = |value| shape(MapType::Array, 4, value, BPF_F_MMAPABLE);
        match name {
            "CONTROL" => mapped(size_of::<Control>()),
            "FLOW4" => mapped(size_of::<Set4>()),
            "FLOW6" => mapped(size_of::<Set6>()),
            "INTERFACES" => mapped(size_of::<InterfaceSet>()),
            "OVERFLOW" => shape(MapType::PerCpuHash, size_of::<WideKey>(), size_of::<WideCounters>(), 0),
            "INTERFACE_OVERFLOW" => shape(MapType::PerCpuHash, size_of::<InterfaceKey>(), size_of::<Count>(), 0),
            "DROPS" => shape(MapType::Hash, size_of::<DropKey>(), size_of::<WideCounters>(), 0),
            "DROP_REASONS" => mapped(size_of::<agent_common::drop::Reason>()),
            "HAND_OFF" => shape(MapType::Array, 4, 16, 0),
            "DROP_HANDLER" => shape(MapType::ProgramArray, 4, 4, 0),
            "FRAGMENTS" => shape(MapType::LruHash, 40, 4, 0),
            _ => Self { kind: None, key: 0, value: 0, flags: 0 },
        }
    }
}

/// Whether a map pinned by a former agent can be gone on with: it is what `name` says, with so many entries.
pub(crate) fn is_as_wanted(path: &Path, name: &str, entries: u32) -> bool {
    MapInfo::from_pin(path).is_ok_and(|info| Shape::of(&info) == Shape::wanted(name) && info.max_entries() == entries)
}
