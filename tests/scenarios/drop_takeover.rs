//! The programs on `kfree_skb` stay attached from one agent to the next; what they go on in is replaced.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use flowlogd::capture::{Capture, Generation, Pins, Sizes};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::wait_for;

const EACH: u64 = 50;

fn open(pins: &BpfFs) -> Result<Capture> {
    let sizes = Sizes::for_machine(u32::try_from(aya::util::nr_cpus().map_err(|e| e.1)?)?, 0);
    let mut capture = Capture::open_pinned(sizes, Pins::open(&pins.directory())?)?;
    capture.watch_drops()?;
    Ok(capture)
}

/// Packets that a generation has counted as dropped.
fn counted(pins: &BpfFs, generation: Generation) -> Result<u64> {
    let map = MapData::from_pin(pins.directory().join(format!("v1/{generation}/DROPS")))?;
    let map: HashMap<_, [u64; 7], [u64; 5]> = Map::HashMap(map).try_into()?;
    map.iter().map(|entry| Ok(entry?.1[0])).sum()
}

fn links(pins: &BpfFs) -> Result<[u32; 3]> {
    let id = |name: &str| -> Result<u32> {
        Ok(FdLink::from(PinnedLink::from_pin(pins.directory().join("v1/links").join(name))?).info()?.id())
    };
    Ok([id("drop_before")?, id("drop_first")?, id("drop_second")?])
}

#[test]
fn each_drop_is_counted_once() -> Result<()> {
    let pair = Pair::new()?;
    let pins = BpfFs::new()?;
    pair.a.sh("nft add table inet t")?;
    let chain = ["nft", "add chain inet t c { type filter hook input priority 0; }"];
    pair.a.run(&chain)?;
    pair.a.sh("nft add rule inet t c udp dport 9 drop")?;
    let sender = pair.b.enter(|| Ok(UdpSocket::bind((Pair::B4, 0))?))?;
    let drop_some = |generation: Generation, total: u64| -> Result<()> {
        for _ in 0..EACH {
            sender.send_to(b"x", (Pair::A4, 9))?;
        }
        wait_for("the count of the drops", Duration::from_secs(5), || {
            let counted = counted(&pins, generation)?;
            ensure!(counted <= total, "{counted} of {total}");
            Ok((counted == total).then_some(()))
        })
    };
    pair.a.enter(|| {
        let first = open(&pins)?;
        let (one, attached) = (first.generation(), links(&pins)?);
        drop_some(one, EACH)?;
        // As good as killed: not closed.
        drop(first);
        drop_some(one, 2 * EACH)?;
        let mut second = open(&pins)?;
        ensure!(links(&pins)? == attached, "attached anew");
        drop_some(second.generation(), EACH)?;
        ensure!(counted(&pins, one)? == 2 * EACH, "the first one's handler still runs");
        second.adopt(|_, _| true)?;
        ensure!(!pins.directory().join(format!("v1/{one}")).exists(), "not freed");

        // One that does not watch drops does not leave them to nobody.
        drop(second);
        let sizes = Sizes::for_machine(u32::try_from(aya::util::nr_cpus().map_err(|e| e.1)?)?, 0);
        let mut third = Capture::open_pinned(sizes, Pins::open(&pins.directory())?)?;
        third.adopt(|_, _| true)?;
        ensure!(links(&pins).is_err(), "still attached");
        third.close();
        Ok(())
    })?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

/// A shared map of another shape cannot be gone on with: the programs that use it go too.
#[test]
fn an_unfit_shared_map_is_replaced() -> Result<()> {
    let pair = Pair::new()?;
    let pins = BpfFs::new()?;
    pair.a.enter(|| {
        drop(open(&pins)?);
        let shared = pins.directory().join("v1/shared");
        let attached = links(&pins)?;
        fs::remove_file(shared.join("HAND_OFF"))?;
        fs::rename(shared.join("FRAGMENTS"), shared.join("HAND_OFF"))?;
        let mut next = open(&pins)?;
        ensure!(links(&pins)? != attached, "not attached anew");
        next.close();
        Ok(())
    })?;
    ensure!(fs::read_dir(pins.directory().join("v1"))?.count() == 1, "only the first one's counters are left");
    Ok(())
}
