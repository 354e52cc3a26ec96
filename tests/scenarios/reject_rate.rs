//! Part of a flood is refused, and windows close meanwhile: ACCEPT + REJECT is what was sent, REJECT what the firewall
//! counted. A drop may be drained one epoch before its packet, and still finds it.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::{Totals, traffic};

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
    const SENT: u64 = 1_000_000;
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

/// The rule comes and goes between floods, and in the middle of one.
#[test]
fn a_rule_flipped_under_load() -> Result<()> {
    const ROUNDS: u64 = 6;
    const PER_ROUND: u64 = 100_000;
    let pair = Pair::new()?;
    let rules = [("flipped", "udp dport 9000", "drop")];
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]))?;
    let mut refused = Totals::default();
    for _ in 0..ROUNDS {
        // Made while the flood runs, and taken away while it runs.
        std::thread::scope(|scope| -> Result<()> {
            let flood = scope.spawn(|| policy::flood(&pair.a, Pair::B4, 9000, SIZE, PER_ROUND));
            let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &rules)?;
            firewall.wait_matched("flipped", 1)?;
            firewall.lift()?;
            flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
            refused += firewall.matched("flipped")?;
            pair.b.sh("nft delete table inet firewall")?;
            Ok(())
        })?;
    }
    traffic::ping(&pair.a, Pair::B4, 1)?;
    let stopped = agent.stop()?;
    ensure!(refused.packets > 0 && refused.packets < ROUNDS * PER_ROUND, "refused {refused}");
    expect(&stopped, ROUNDS * PER_ROUND, refused)
}
