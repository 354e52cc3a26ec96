//! The ingress classifier over a plain per-CPU hash, for the benchmark to compare with. Whole packets only.
#![allow(unsafe_code)]
use crate::classify::sample;
use crate::count::{self, Sample};
use crate::maps::YARDSTICK;
use crate::reader::Direct;
use agent_common::INGRESS;
use agent_common::flow::WideKey;
use agent_ebpf_parse::parse::{self, Network};
use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};

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
            add(&count::wide6(&ip.src, &ip.dst, &sample), &sample);
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
