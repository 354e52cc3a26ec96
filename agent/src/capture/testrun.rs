//! What only tests and benchmarks need: a program run on a packet of the caller's (BPF_PROG_TEST_RUN), a drain in
//! steps with their times, an empty program on an interface.
//! Nothing is attached and nothing reaches a network; the tables are this capture's own.
#![forbid(unsafe_code)]

use super::attach::attach_programs;
use super::drops;
use super::flow::Drained;
use super::interfaces::Interface;
use super::load::program;
use super::{Capture, Error};
use aya::Ebpf;
use aya::maps::{Array, ProgramArray};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions};
use std::time::{Duration, Instant};

/// What the kernel would have set in the skb. Zeros: an ordinary packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    pub gso_size: u32,
    pub gso_segs: u32,
    /// Length with the headers of every segment, link layer included.
    pub wire_len: u32,
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h): size and offsets of the fields that may be given.
const CONTEXT_LEN: usize = 192;
const WIRE_LEN: usize = 160;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;

/// What the benchmark compares, in the order of `UNDER_TEST`, and the generators that jump there.
const UNDER_TEST: [&str; 3] = ["empty", "ingress", "ingress_hash"];
const GENERATORS: [&str; 3] = ["vary_empty", "vary_ingress", "vary_hash"];

/// Loads what an agent never needs.
pub(crate) fn load(ebpf: &mut Ebpf) -> Result<(), Error> {
    for name in UNDER_TEST.iter().skip(2).chain(&GENERATORS) {
        program(ebpf, name)?.load()?;
    }
    let slots = ebpf.take_map("UNDER_TEST").ok_or(Error::Missing("UNDER_TEST"))?;
    let mut slots: ProgramArray<_> = slots.try_into()?;
    for (slot, name) in (0..).zip(UNDER_TEST) {
        slots.set(slot, program(ebpf, name)?.fd()?, 0)?;
    }
    // The kernel empties a program array when its last descriptor is closed.
    std::mem::forget(slots);
    Ok(())
}

impl Capture {
    /// Starts a run over `flows` (a power of two) with the generators `vary_empty`, `vary_ingress` and `vary_hash`:
    /// they number the flows in the last three bytes of the word at `offset`.
    pub fn vary(&mut self, flows: u32, offset: u32, seed: u64) -> Result<(), Error> {
        let map = self.loaded.ebpf.map_mut("WORKLOAD").ok_or(Error::Missing("WORKLOAD"))?;
        let mut workload: Array<_, [u64; 2]> = map.try_into()?;
        workload.set(0, [seed, u64::from(flows - 1) | u64::from(offset) << 32], 0)?;
        Ok(())
    }

    /// Runs `name` (`ingress`, `egress`, `ingress_bare`, `egress_bare`, `empty`, `ingress_hash`) `repeat` times. The packet starts with
    /// an Ethernet header, also for the bare programs, which the kernel takes off itself only on ingress of a device
    /// without one. Returns the program's value and the average time of a run.
    pub fn test_run(
        &mut self,
        name: &'static str,
        packet: &[u8],
        offload: Offload,
        repeat: u32,
    ) -> Result<(u32, Duration), Error> {
        let mut context = [0; CONTEXT_LEN];
        for (at, value) in [(WIRE_LEN, offload.wire_len), (GSO_SEGS, offload.gso_segs), (GSO_SIZE, offload.gso_size)] {
            context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let program = program(&mut self.loaded.ebpf, name)?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: None,
            ctx_in: Some(&context),
            ctx_out: None,
            repeat,
            attrs: TestRunAttrs::new(),
        })?;
        Ok((result.return_value, result.duration))
    }

    /// A drain with the times of its steps.
    pub fn drain_timed(&mut self) -> Result<(Drained, DrainTimes), Error> {
        let start = Instant::now();
        let epoch = self.loaded.tables.swap(&self.loaded.grace)?;
        let swapped = Instant::now();
        let clock = self.loaded.read_clock(0)?;
        let drained = self.loaded.tables.read(epoch, &clock)?;
        let read = Instant::now();
        self.loaded.tables.clear(epoch)?;
        Ok((drained, DrainTimes { swap: swapped - start, read: read - swapped, clear: read.elapsed() }))
    }

    /// Puts the empty program where the programs on drops would be, so many times.
    pub fn watch_nothing(&mut self, times: u32) -> Result<(), Error> {
        drops::attach_empty(&mut self.loaded.ebpf, times)
    }

    /// Puts the empty program on both directions of an interface that this capture does not watch.
    pub fn attach_empty(&mut self, interface: &Interface) -> Result<(), Error> {
        let attachment = attach_programs(&mut self.loaded.ebpf, interface, ["empty", "empty"], self.hook, None)?;
        self.attached.insert(interface.index, (interface.clone(), attachment));
        Ok(())
    }
}

/// What the steps of a drain took.
#[derive(Clone, Copy, Debug)]
pub struct DrainTimes {
    /// Waiting for a grace period, mostly.
    pub swap: Duration,
    /// Scan of the tables and of the overflow hash, merged over the CPUs.
    pub read: Duration,
    pub clear: Duration,
}
