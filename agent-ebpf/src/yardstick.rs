//! For the benchmark: the ingress classifier over a plain per-CPU hash, to compare with, and a generator that gives
//! every run of BPF_PROG_TEST_RUN another flow's packet, so that no system call disturbs the caches in between.
#![allow(unsafe_code)]
use crate::classify::sample;
use crate::count::{self, Sample};
use crate::maps::{UNDER_TEST, WORKLOAD, YARDSTICK};
use crate::reader::Direct;
use agent_common::INGRESS;
use agent_common::flow::WideKey;
use agent_ebpf_parse::parse::{self, Network};
use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::programs::TcContext;

/// Parses and counts as the fast path does, but for the table.
#[inline(always)]
pub fn classify(skb: *mut __sk_buff) {
    let packet = Direct::new(skb);
    match parse::ethernet(&packet) {
        Ok(Network::V4(l3)) => {
            let Ok(ip) = parse::ipv4(&packet, l3, false) else { return };
            let sample = sample(skb, INGRESS, &ip.transport);
            count::seen(&sample);
            add(&count::wide4(ip.addresses, &sample), &sample);
        }
        Ok(Network::V6(l3)) => {
            let Ok(ip) = parse::ipv6(&packet, l3, false) else { return };
            let sample = sample(skb, INGRESS, &ip.transport);
            count::seen(&sample);
            add(&count::wide6(ip.src, ip.dst, &sample), &sample);
        }
        Err(_) => {}
    }
}

#[inline(always)]
fn add(key: &WideKey, sample: &Sample) {
    let counters = count::counters(sample);
    if let Some(value) = YARDSTICK.get_ptr_mut(key) {
        // SAFETY: this CPU's own slot, softirqs are off.
        count::merge(unsafe { &mut *value }, &counters);
        return;
    }
    // The benchmark keeps to one CPU, so nobody else can have inserted the key.
    let _ = YARDSTICK.insert(key, &counters, u64::from(BPF_NOEXIST));
}

/// Writes the next flow's address into the packet and goes on in the program under test.
#[inline(always)]
pub fn vary(ctx: &TcContext, slot: u32) {
    let Some(workload) = WORKLOAD.get_ptr_mut(0) else { return };
    // SAFETY: a live map value that only this program writes; the benchmark keeps to one CPU.
    let workload = unsafe { &mut *workload };
    // Knuth's MMIX generator; its upper bits are the good ones.
    workload.state = workload.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let flow = (workload.state >> 40) as u32 & workload.mask;
    let at = ctx.data() + (workload.offset & 63) as usize;
    if at + 4 > ctx.data_end() {
        return;
    }
    // SAFETY: inside the packet by the check above. The first byte of the address stays.
    unsafe {
        let word = at as *mut u32;
        *word = *word & 0xff | flow.to_be() & !0xff;
        // Only a full or empty slot makes this return, and then nothing is counted, which the benchmark notices.
        let _ = UNDER_TEST.tail_call(ctx, slot);
    }
}
