//! Every map, why this size and type. Sizes here are placeholders: user space sets them from CPUs and RAM.
use agent_common::Control;
use agent_common::drop::{DropKey, LOSSES, Reason};
use agent_common::flow::{Set4, Set6, WideCounters, WideKey};
use agent_common::interface::{Count, InterfaceKey, InterfaceSet};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuHashMap, ProgramArray, RingBuf};

/// One element: the epoch. Its own map, because user space maps it for writing.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `[epoch & 1][cpu][set]`. A flat array, because its lookup is inlined to a bounds check; no atomics, because a
/// CPU writes only its own part and TC programs run with softirqs off.
#[map]
pub static FLOW4: Array<Set4> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// As [`FLOW4`], for IPv6.
#[map]
pub static FLOW6: Array<Set6> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Takes flows whose set is full and counters that would outgrow their bits. The epoch is part of the key.
#[map]
pub static OVERFLOW: PerCpuHashMap<WideKey, WideCounters> = PerCpuHashMap::with_max_entries(1, 0);

/// The benchmark's yardstick: one element in an agent, as no program that it loads uses it.
#[map]
pub static YARDSTICK: PerCpuHashMap<WideKey, WideCounters> = PerCpuHashMap::with_max_entries(1, 0);

/// The benchmark's programs: empty, ours, the yardstick.
#[map]
pub static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(3, 0);

/// State of the benchmark's packet generator.
#[repr(C)]
pub struct Workload {
    pub state: u64,
    /// Flows - 1, a power of two minus one.
    pub mask: u32,
    /// Where the source address is in the packet, below 64.
    pub offset: u32,
}

#[map]
pub static WORKLOAD: Array<Workload> = Array::with_max_entries(1, 0);

/// `[epoch & 1][cpu][set]` of per-interface totals.
#[map]
pub static INTERFACES: Array<InterfaceSet> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Takes interfaces whose set in [`INTERFACES`] is full.
#[map]
pub static INTERFACE_OVERFLOW: PerCpuHashMap<InterfaceKey, Count> = PerCpuHashMap::with_max_entries(1024, 0);

/// What a datagram's later fragments are found by.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FragmentKey {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub id: u32,
    pub protocol: u8,
    pub reserved: [u8; 3],
}

/// Ports of datagrams whose first fragment was seen. Least recently used ones give way: a datagram is reassembled
/// within 30 s (`net.ipv4.ipfrag_time`) or never.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(8192, 0);

/// `[cpu][reason]`: what each drop reason says, and how often the others came.
#[map]
pub static DROP_REASONS: Array<Reason> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// By CPU: the packet that the first drop program has counted, at either nesting level.
#[map]
pub static HAND_OFF: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// What the attached drop programs go on in.
#[map]
pub static DROP_HANDLER: ProgramArray = ProgramArray::with_max_entries(DROP_HANDLERS, 0);
pub const DROP_HANDLERS: u32 = 1;

/// Rejected flows. Shared by the CPUs: drops are rare beside packets, may nest, and may run preemptible on
/// PREEMPT_RT. The drops' epoch is part of the key.
#[map]
pub static DROPS: HashMap<DropKey, WideCounters> = HashMap::with_max_entries(1, 0);

/// By `Loss`.
#[map]
pub static DROP_LOSSES: Array<u64> = Array::with_max_entries(LOSSES, BPF_F_MMAPABLE);

/// By `warn::Table`: the epoch of its last warning, plus one.
#[map]
pub static WARNED: Array<u64> = Array::with_max_entries(2, 0);

/// Wakes user space; what is in it says nothing. The least that a ring may have.
#[map]
pub static WAKE: RingBuf = RingBuf::with_byte_size(4096, 0);

/// By `wake::Why`: the epoch that user space was woken for, plus one; flows refused since the start.
#[map]
pub static WOKEN: Array<u64> = Array::with_max_entries(2, 0);

/// Where the `clock` program leaves the jiffies of its run.
#[map]
pub static CLOCK: Array<u64> = Array::with_max_entries(1, 0);
