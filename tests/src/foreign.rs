//! eBPF programs of somebody else's on an interface, and what is attached to it.

use std::fs::File;

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::links::{CgroupAttachMode, FdLink, LinkOrder};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{CgroupSkb, CgroupSkbAttachType, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use crate::cgroup::Cgroup;
use crate::netns::Netns;

/// What `build.rs` compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flowlogd-tests-ebpf"));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn hook(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// One program in one place, with a counter of its own. Dropping it detaches it.
pub struct Foreign {
    link: SchedClassifierLink,
    done: PerCpuArray<MapData, u64>,
    _ebpf: Ebpf,
}

impl Foreign {
    /// Attaches by TCX, where one that knows of nobody else would: last.
    pub fn tcx(ns: &Netns, device: &str, direction: Direction, program: &str) -> Result<Self> {
        Self::attach(ns, device, direction, program, TcAttachOptions::TcxOrder(LinkOrder::default()))
    }

    /// Attaches by TCX before all that are there.
    pub fn tcx_first(ns: &Netns, device: &str, direction: Direction, program: &str) -> Result<Self> {
        Self::attach(ns, device, direction, program, TcAttachOptions::TcxOrder(LinkOrder::first()))
    }

    /// Attaches as a filter of the clsact queueing discipline, which must be there.
    pub fn clsact(ns: &Netns, device: &str, direction: Direction, program: &str, priority: u16) -> Result<Self> {
        let options = NlOptions { priority, ..Default::default() };
        Self::attach(ns, device, direction, program, TcAttachOptions::Netlink(options))
    }

    fn attach(ns: &Netns, device: &str, direction: Direction, program: &str, options: TcAttachOptions) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        let classifier: &mut SchedClassifier =
            ebpf.program_mut(program).with_context(|| program.to_owned())?.try_into()?;
        classifier.load()?;
        let link = ns.enter(|| {
            let id = classifier.attach_with_options(device, direction.hook(), options)?;
            Ok(classifier.take_link(id)?)
        })?;
        let done = ebpf.take_map("DONE").context("DONE")?.try_into()?;
        Ok(Self { link, done, _ebpf: ebpf })
    }

    /// How often it did what it does, on all CPUs.
    pub fn done(&self) -> Result<u64> {
        Ok(self.done.get(&0, 0)?.iter().sum())
    }

    /// Link id and program id of a TCX attachment, as the kernel says.
    pub fn ids(&self) -> Result<(u32, u32)> {
        let link: &FdLink = (&self.link).try_into()?;
        let info = link.info()?;
        Ok((info.id(), info.program_id()))
    }
}

/// A program that drops UDP to port 7001 and counts what it drops, where classifiers do not reach. Dropping it detaches
/// it.
pub struct Filter {
    done: PerCpuArray<MapData, u64>,
    /// Holds the link.
    _ebpf: Ebpf,
}

impl Filter {
    /// Generic XDP: in the stack, after the driver and before traffic control.
    pub fn generic_xdp(ns: &Netns, device: &str) -> Result<Self> {
        Self::attach(|ebpf| {
            let xdp: &mut Xdp = ebpf.program_mut("drop_port_xdp").context("drop_port_xdp")?.try_into()?;
            xdp.load()?;
            ns.enter(|| Ok(xdp.attach(device, XdpMode::Skb)?))?;
            Ok(())
        })
    }

    /// On what processes in the cgroup send.
    pub fn cgroup_egress(cgroup: &Cgroup) -> Result<Self> {
        Self::attach(|ebpf| {
            let filter: &mut CgroupSkb =
                ebpf.program_mut("drop_port_cgroup").context("drop_port_cgroup")?.try_into()?;
            filter.load()?;
            filter.attach(File::open(cgroup.path())?, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)?;
            Ok(())
        })
    }

    fn attach(attach: impl FnOnce(&mut Ebpf) -> Result<()>) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        attach(&mut ebpf)?;
        let done = ebpf.take_map("DONE").context("DONE")?.try_into()?;
        Ok(Self { done, _ebpf: ebpf })
    }

    /// How many packets it dropped, on all CPUs.
    pub fn done(&self) -> Result<u64> {
        Ok(self.done.get(&0, 0)?.iter().sum())
    }
}

/// Ids of the programs attached to a device by TCX, in the order in which they run.
pub fn tcx_programs(ns: &Netns, device: &str, direction: Direction) -> Result<Vec<u32>> {
    let (_, programs) = ns.enter(|| Ok(SchedClassifier::query_tcx(device, direction.hook())?))?;
    Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
}
