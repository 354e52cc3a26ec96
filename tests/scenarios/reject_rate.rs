//! Part of a flood is refused, and windows close meanwhile: ACCEPT + REJECT is what was sent, REJECT what the firewall
//! counted. A drop may be drained one epoch before its packet, and still finds it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow, ensure};
use flowlogd_tests::Totals;
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::traffic::{self, Sink};

const SIZE: usize = 100;

fn of_size(packets: u64) -> Totals {
    Totals { packets, bytes: packets * (SIZE as u64 + 28) }
}

fn expect(stopped: &Stopped, sent: u64, refused: Totals) -> Result<()> {
    policy::expect_all_matched(stopped)?;
    let want = Split { accept: of_size(sent - refused.packets), reject: refused };
    Split::udp(stopped, 9000, true).expect("over all windows", want)
}

/// 600,000 datagrams as fast as one CPU sends them.
#[test]
fn a_rate_limit_under_flood() -> Result<()> {
    const SENT: u64 = 600_000;
    let pair = Pair::new()?;
    let _sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let rules = [("kept", "udp dport 9000 limit rate 1000/second", "accept"), ("over", "udp dport 9000", "drop")];
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &rules)?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]))?;
    policy::flood(&pair.a, Pair::B4, 9000, SIZE, SENT)?;
    traffic::ping(&pair.a, Pair::B4, 1)?;
    let (kept, over) = (firewall.matched("kept")?, firewall.matched("over")?);
    ensure!(kept.packets + over.packets == SENT, "kept {kept}, refused {over}, sent {SENT}");
    ensure!(kept.packets > 0 && over.packets > 100_000, "kept {kept}, refused {over}");
    let stopped = agent.stop()?;
    expect(&stopped, SENT, over)
}

/// All of a flood is refused in many windows of a second.
#[test]
fn everything_refused_over_windows() -> Result<()> {
    const SENT: u64 = 2_000_000;
    let pair = Pair::new()?;
    let rules = [("all", "udp dport 9000", "drop")];
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &rules)?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]))?;
    policy::flood(&pair.a, Pair::B4, 9000, SIZE, SENT)?;
    traffic::ping(&pair.a, Pair::B4, 1)?;
    let all = firewall.matched("all")?;
    ensure!(all == of_size(SENT), "{all}");
    let stopped = agent.stop()?;
    expect(&stopped, SENT, all)
}

/// The rule comes and goes six times in the middle of a flood.
#[test]
fn a_rule_flipped_under_load() -> Result<()> {
    const FLIPS: u64 = 6;
    const MOST: u64 = 20_000_000;
    let pair = Pair::new()?;
    let _sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]))?;
    let on = AtomicBool::new(true);
    let (sent, refused) = std::thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| policy::flood_while(&pair.a, Pair::B4, 9000, SIZE, MOST, &on));
        let flips = (0..FLIPS).map(|_| flip(&pair)).collect::<Result<Vec<_>>>();
        on.store(false, Ordering::Relaxed);
        let sent = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
        Ok((sent, flips?.into_iter().sum::<Totals>()))
    })?;
    traffic::ping(&pair.a, Pair::B4, 1)?;
    let stopped = agent.stop()?;
    ensure!(sent < MOST && refused.packets < sent, "sent {sent}, refused {refused}");
    expect(&stopped, sent, refused)
}

/// Refuses a part of the flood, and says how much that was.
fn flip(pair: &Pair) -> Result<Totals> {
    let rules = [("flipped", "udp dport 9000", "drop")];
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &rules)?;
    firewall.wait_matched("flipped", 10_000)?;
    firewall.lift()?;
    let refused = firewall.matched("flipped")?;
    pair.b.sh("nft delete table inet firewall")?;
    // Until some are let through again.
    traffic::ping(&pair.a, Pair::B4, 1)?;
    Ok(refused)
}
