//! Turns the kernel's own verdicts on: resolves names through BTF, fills the table of reasons, attaches the
//! programs; and reads what they counted. On a kernel without drop reasons it says so, and every record is ACCEPT.
//! Knows nothing of windows: whether a packet was counted as accepted before is handed on with it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use agent_common::drop::{Class, Loss, REASONS, Reason};
use aya::maps::{Array, HashMap, Map, MapData, ProgramArray};
use aya::programs::BtfTracePoint;
use aya::{Btf as AyaBtf, Ebpf, EbpfLoader};

use super::btf::{self, Btf, BtfError};
use super::pin::{Pins, STUBS};
use super::sys::Mapped;
use super::{Error, reason, stubs};

/// Linux 5.17 gave the tracepoint its reason.
const TRACEPOINT: &str = "kfree_skb";

/// What the programs must know of the running kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    offsets: Vec<(&'static str, u32)>,
    /// Values of the reasons, with names.
    reasons: Vec<(String, u32)>,
    namespace: u32,
}

/// Why every record will be ACCEPT.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("this kernel shows no BTF ({path}: {source}); it needs CONFIG_DEBUG_INFO_BTF", path = btf::KERNEL)]
    NoBtf { source: std::io::Error },
    #[error("this kernel gives no drop reasons; Linux 5.17 and later do")]
    NoReasons,
    #[error("{0}")]
    Other(String),
}

impl From<BtfError> for Unavailable {
    fn from(error: BtfError) -> Self {
        Self::Other(error.to_string())
    }
}

/// Name of a global in the programs, struct, field.
const OFFSETS: [(&str, &str, &[&str]); 16] = [
    ("SKB_DEV", "sk_buff", &["dev"]),
    ("SKB_REFDST", "sk_buff", &["_skb_refdst"]),
    ("SKB_IIF", "sk_buff", &["skb_iif"]),
    ("SKB_PROTOCOL", "sk_buff", &["protocol"]),
    ("SKB_NETWORK_HEADER", "sk_buff", &["network_header"]),
    ("SKB_TAIL", "sk_buff", &["tail"]),
    ("SKB_END", "sk_buff", &["end"]),
    ("SKB_HEAD", "sk_buff", &["head"]),
    ("SKB_DATA", "sk_buff", &["data"]),
    ("SKB_LEN", "sk_buff", &["len"]),
    ("INFO_GSO_SIZE", "skb_shared_info", &["gso_size"]),
    ("DEV_IFINDEX", "net_device", &["ifindex"]),
    ("DEV_NET", "net_device", &["nd_net", "net"]),
    ("NET_INUM", "net", &["ns", "inum"]),
    ("DST_DEV", "dst_entry", &["dev"]),
    ("TASK_STACK", "task_struct", &["stack"]),
];

/// `struct nf_conntrack_tuple` as the programs know it: path, offset.
const TUPLE: [(&[&str], u32); 6] = [
    (&["src", "u3"], 0),
    (&["src", "u"], 16),
    (&["src", "l3num"], 18),
    (&["dst", "u3"], 20),
    (&["dst", "u"], 36),
    (&["dst", "protonum"], 38),
];

/// Where connection tracking keeps what a packet was called before its addresses were translated.
fn conntrack(mut btf: Btf) -> Result<[(&'static str, u32); 3], BtfError> {
    if let Ok(module) = fs::read(btf::CONNTRACK) {
        btf.extend(&module)?;
    }
    for (path, offset) in TUPLE {
        if btf.offset("nf_conntrack_tuple", path)? != offset {
            return Err(BtfError::Missing("nf_conntrack_tuple of the known layout".to_owned()));
        }
    }
    let of_hash = btf.offset("nf_conntrack_tuple_hash", &["tuple"])?;
    Ok([
        ("SKB_NFCT", btf.offset("sk_buff", &["_nfct"])?),
        ("CONN_TUPLE", btf.offset("nf_conn", &["tuplehash"])? + of_hash),
        ("CONN_TUPLE_SIZE", btf.size("nf_conntrack_tuple_hash")?),
    ])
}

impl Kernel {
    /// Resolves all names through the running kernel's BTF, and our network namespace.
    pub(crate) fn read() -> Result<Self, Unavailable> {
        let btf = Btf::parse(fs::read(btf::KERNEL).map_err(|source| Unavailable::NoBtf { source })?)?;
        let reasons = btf.values(reason::ENUM)?;
        if !reasons.iter().any(|(name, _)| reason::class(name) != Class::Other) {
            return Err(Unavailable::NoReasons);
        }
        let mut offsets = Vec::new();
        for (global, of, path) in OFFSETS {
            // Renamed in Linux 6.19 or so; the meaning is the same.
            let found = btf.offset(of, path).or_else(|error| match global {
                "DST_DEV" => btf.offset(of, &["dev_rcu"]),
                _ => Err(error),
            })?;
            offsets.push((global, found));
        }
        // The programs read these two at once.
        if btf.offset("skb_shared_info", &["gso_segs"])? != btf.offset("skb_shared_info", &["gso_size"])? + 2 {
            return Err(Unavailable::Other("unknown layout of skb_shared_info: gso_size and gso_segs".to_owned()));
        }
        // Optional: without it, drops of translated packets find no counterpart, and that is counted.
        offsets.extend(conntrack(btf).into_iter().flatten());
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(|e| Unavailable::Other(e.to_string()))?.ino();
        Ok(Self { offsets, reasons, namespace: namespace as u32 })
    }

    /// Sets the programs' globals.
    pub(crate) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (global, offset) in &self.offsets {
            loader.override_global(global, offset, true);
        }
        loader.override_global("NAMESPACE", &self.namespace, true);
    }
}

/// The attached programs and what they write.
pub(crate) struct Drops {
    reasons: Mapped,
    names: Vec<(String, u32)>,
    losses: Array<MapData, u64>,
    _keep: (Map, ProgramArray<MapData>),
    cpus: u32,
}

/// Words of the hash's key and value, as in `agent_common::drop`.
pub(crate) type DropHash = HashMap<MapData, [u64; 7], [u64; 5]>;

const REASON_WORDS: usize = size_of::<Reason>() / 8;

impl Drops {
    /// Loads and attaches. The handler is in its slot before anything jumps there.
    pub(crate) fn attach(ebpf: &mut Ebpf, kernel: &Kernel, cpus: u32, pins: Option<&Pins>) -> Result<Self, Error> {
        let map = ebpf.take_map("DROP_REASONS").ok_or(Error::Missing("DROP_REASONS"))?;
        let Map::Array(data) = &map else { return Err(Error::Missing("DROP_REASONS")) };
        let bytes = cpus as usize * REASONS as usize * size_of::<Reason>();
        let reasons = Mapped::new(std::os::fd::AsFd::as_fd(data.fd()), bytes)
            .map_err(|source| Error::Io { what: "DROP_REASONS", source })?;
        for (name, value) in &kernel.reasons {
            let class = reason::class(name);
            for cpu in (0..cpus).filter(|_| class != Class::Other && *value < REASONS - 1) {
                reasons.store((cpu * REASONS + value) as usize * REASON_WORDS, class as u64);
            }
        }
        let btf =
            AyaBtf::from_sys_fs().map_err(|e| Error::Io { what: "read BTF", source: std::io::Error::other(e) })?;
        for name in ["drop_handler"].into_iter().chain(STUBS) {
            tracepoint(ebpf, name)?.load(TRACEPOINT, &btf)?;
        }
        let mut handler: ProgramArray<_> =
            ebpf.take_map("DROP_HANDLER").ok_or(Error::Missing("DROP_HANDLER"))?.try_into()?;
        handler.set(0, tracepoint(ebpf, "drop_handler")?.fd()?, 0)?;
        stubs::attach(ebpf, pins)?;
        let losses = ebpf.take_map("DROP_LOSSES").ok_or(Error::Missing("DROP_LOSSES"))?.try_into()?;
        Ok(Self { reasons, names: kernel.reasons.clone(), losses, _keep: (map, handler), cpus })
    }

    /// Frees that were no policy's, by reason, since the start; only those that came.
    pub(crate) fn other_frees(&self) -> Vec<(&str, u64)> {
        let frees = |value: u32| -> u64 {
            (0..self.cpus).map(|cpu| self.reasons.load((cpu * REASONS + value) as usize * REASON_WORDS + 1)).sum()
        };
        let known = self.names.iter().filter(|(_, value)| *value < REASONS - 1);
        let mut found: Vec<(&str, u64)> =
            known.map(|(name, value)| (name.strip_prefix(reason::PREFIX).unwrap_or(name), frees(*value))).collect();
        found.push(("other subsystems", frees(REASONS - 1)));
        found.retain(|(_, frees)| *frees > 0);
        found
    }

    /// Names of the reasons that a rejected flow may have, by the running kernel's numbers.
    pub(crate) fn policies(&self) -> BTreeMap<u16, String> {
        let policies = self.names.iter().filter(|(name, _)| reason::class(name) != Class::Other);
        let short = |name: &str| name.strip_prefix(reason::PREFIX).unwrap_or(name).to_owned();
        policies.filter_map(|(name, value)| Some((u16::try_from(*value).ok()?, short(name)))).collect()
    }

    /// What was lost, by cause.
    pub(crate) fn losses(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let causes = [(Loss::NoInterface, "no_interface"), (Loss::Unparsable, "unparsable"), (Loss::NoRoom, "no_room")];
        causes.into_iter().map(|(loss, name)| Ok((name, self.losses.get(&(loss as u32), 0)?))).collect()
    }
}

/// For the benchmark.
pub(crate) fn attach_empty(ebpf: &mut Ebpf, times: u32) -> Result<(), Error> {
    let program = tracepoint(ebpf, "drop_empty")?;
    program.load(TRACEPOINT, &kernel_btf()?)?;
    for _ in 0..times {
        program.attach()?;
    }
    Ok(())
}

fn kernel_btf() -> Result<AyaBtf, Error> {
    AyaBtf::from_sys_fs().map_err(|e| Error::Io { what: "read BTF", source: std::io::Error::other(e) })
}

pub(crate) fn tracepoint<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, Error> {
    Ok(ebpf.program_mut(name).ok_or(Error::Missing(name))?.try_into()?)
}
