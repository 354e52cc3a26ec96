//! Drops within drops: a CPU refuses what its process sends while interrupts make it refuse what arrives. The kernel does
//! not run a program that already runs there; the two programs that count make up for each other.

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use flowlogd_tests::Totals;
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::{Pair, run};
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::policy::{self, Split};
use tempfile::TempDir;

/// Refused as it arrives.
const ARRIVES: u16 = 9000;
/// Refused as it is sent.
const LEAVES: u16 = 9001;
/// Let through.
const MARKER: u16 = 9002;

const BURSTS: u32 = 40;
const BURST: u32 = 5_000;
/// Nested frees that a run has at the least, to count as one: it has tens of thousands.
const NESTED: u64 = 1_000;

/// What the two sides do, in the low bits; a burst's number is above.
const REST: u32 = 0;
const FLOOD: u32 = 1;
const SETTLE: u32 = 2;
const END: u32 = 3;

/// Refuses packets of both kinds on one CPU. Its process has the CPU to itself while any are under way: a process of the
/// machine's own, under which tracing programs may not run, cannot be interrupted in place of it.
fn refuse_both(pair: &Pair) -> Result<()> {
    let cpus = policy::cpus()?;
    let (Some(&first), Some(&last)) = (cpus.first(), cpus.last()) else { bail!("no CPU") };
    ensure!(first != last, "needs two CPUs");
    let steer = format!("echo {:x} > /sys/class/net/b0/queues/rx-0/rps_cpus", 1u64 << last);
    pair.b.run(&["sh", "-c", &steer])?;
    let phase = AtomicU32::new(REST);
    thread::scope(|scope| {
        let interrupts = scope.spawn(|| pair.a.enter(|| interrupt(first, &phase)));
        let refused = pair.b.enter(|| be_interrupted(last, &phase));
        phase.store(END, Ordering::SeqCst);
        interrupts.join().map_err(|_| anyhow!("a sender panicked"))??;
        refused
    })
}

/// Sends what the other CPU is to refuse as it arrives, and then the burst's marker.
fn interrupt(cpu: usize, phase: &AtomicU32) -> Result<()> {
    policy::pin_to(cpu)?;
    let socket = UdpSocket::bind((Pair::A4, 0))?;
    loop {
        let now = phase.load(Ordering::SeqCst);
        match now & 3 {
            FLOOD => socket.send_to(&[0; 64], (Pair::B4, ARRIVES))?,
            SETTLE => socket.send_to(&now.to_ne_bytes(), (Pair::B4, MARKER))?,
            END => return Ok(()),
            _ => {
                thread::sleep(Duration::from_micros(100));
                0
            }
        };
    }
}

/// Sends what is refused at once, in bursts. After each it waits, with the CPU, for a marker: all that was sent before
/// has arrived then.
fn be_interrupted(cpu: usize, phase: &AtomicU32) -> Result<()> {
    policy::pin_to(cpu)?;
    run(&["chrt", "--fifo", "--pid", "1", &nix::unistd::gettid().to_string()]).context("real-time priority")?;
    let socket = UdpSocket::bind((Pair::B4, 0))?;
    let markers = UdpSocket::bind((Pair::B4, MARKER))?;
    markers.set_nonblocking(true)?;
    for burst in (4..).step_by(4).take(BURSTS as usize) {
        phase.store(burst | FLOOD, Ordering::SeqCst);
        for _ in 0..BURST {
            let refused = socket.send_to(&[0; 64], (Pair::A4, LEAVES)).map_err(|error| error.kind());
            ensure!(refused == Err(ErrorKind::PermissionDenied), "sent: {refused:?}");
        }
        let settle = burst | SETTLE;
        phase.store(settle, Ordering::SeqCst);
        wait_marker(&markers, &settle.to_ne_bytes())?;
        phase.store(burst | REST, Ordering::SeqCst);
        // Others need the CPU too, and the kernel takes it from a process that keeps it for a second.
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Without sleeping.
fn wait_marker(markers: &UdpSocket, wanted: &[u8]) -> Result<()> {
    let (limit, mut buffer) = (Instant::now() + Duration::from_millis(500), [0; 8]);
    loop {
        match markers.recv(&mut buffer) {
            Ok(len) if buffer[..len] == *wanted => return Ok(()),
            // An earlier burst's.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => ensure!(Instant::now() < limit, "no marker"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What nftables refused of each kind.
struct Refused {
    arriving: Totals,
    leaving: Totals,
}

/// Starts an agent on the pins, lets `prepare` change them, and refuses packets under it.
fn refuse_under(pair: &Pair, pins: &BpfFs, prepare: impl FnOnce() -> Result<()>) -> Result<(Refused, Stopped)> {
    let logs = TempDir::new()?;
    let input = Firewall::new(
        &pair.b,
        "type filter hook input priority 0",
        &[("all", "udp dport 9000", "drop"), ("marker", "udp dport 9002", "accept")],
    )?;
    let output = format!("add rule inet firewall leaving udp dport {LEAVES} counter name c_leaving drop");
    for line in [
        "add counter inet firewall c_leaving",
        "add chain inet firewall leaving { type filter hook output priority 0; }",
        &output,
    ] {
        pair.b.run(&["nft", line])?;
    }
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600).into(logs.path()).pins_in(pins))?;
    prepare()?;
    refuse_both(pair)?;
    let refused = Refused { arriving: input.matched("all")?, leaving: input.matched("leaving")? };
    let stopped = agent.stop()?;
    pair.b.sh("nft delete table inet firewall")?;
    ensure!(refused.leaving.packets == u64::from(BURSTS * BURST), "refused on the way out: {}", refused.leaving);
    ensure!(refused.arriving.packets > u64::from(BURST), "refused as they arrived: {}", refused.arriving);
    Ok((refused, stopped))
}

#[test]
fn each_is_counted_once() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    let (refused, stopped) = refuse_under(&pair, &pins, || Ok(()))?;
    policy::expect_all_matched(&stopped)?;
    let nested = stopped.count("drops_nested")?;
    ensure!(nested > NESTED, "{nested} frees were nested");
    Split::udp(&stopped, ARRIVES, true)
        .expect("arriving", Split::rejected(refused.arriving))
        .and_then(|()| Split::udp(&stopped, LEAVES, true).expect("leaving", Split::rejected(refused.leaving)))
        .with_context(|| format!("{:?}", stopped.stderr))
}

/// The same traffic with one of the two taken off: if it were not nested, this would miss none.
#[test]
fn one_program_alone_misses_some() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    let (refused, stopped) = refuse_under(&pair, &pins, || {
        for pin in ["links/drop_second", "shared/drop_second"] {
            fs::remove_file(pins.directory().join("v1").join(pin))?;
        }
        Ok(())
    })?;
    let arriving = Split::udp(&stopped, ARRIVES, true);
    ensure!(arriving.both() == refused.arriving, "seen {}, refused {}", arriving.both(), refused.arriving);
    let missed = refused.arriving.packets - arriving.reject.packets;
    ensure!(missed > NESTED, "{missed} of {} were missed", refused.arriving);
    Split::udp(&stopped, LEAVES, true).expect("leaving", Split::rejected(refused.leaving))
}
