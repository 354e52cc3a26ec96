//! What another program refuses is REJECT: behind our classifiers, before them, and at a cgroup. The independent count
//! is that program's own.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::cgroup::Cgroup;
use flowlogd_tests::foreign::{Direction, Filter, Foreign};
use flowlogd_tests::netns::{Netns, Pair, Path};
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::{Totals, python, traffic};

const DATAGRAMS: u64 = 100;
const SIZE: usize = 222;

/// Of both address families, to the port that the programs drop.
fn send(from: &Netns, [to4, to6]: [&str; 2]) -> Result<()> {
    for to in [to4, to6] {
        policy::datagrams(from, to, 7001, SIZE, DATAGRAMS)?;
        policy::datagrams(from, to, 7002, SIZE, DATAGRAMS)?;
        // A round trip behind them: all have arrived.
        traffic::ping(from, to, 1)?;
    }
    Ok(())
}

fn sent(v4: bool) -> Totals {
    let headers = if v4 { 28 } else { 48 };
    Totals { packets: DATAGRAMS, bytes: DATAGRAMS * (SIZE as u64 + headers) }
}

fn expect_dropped(stopped: &Stopped, dropped: u64, what: &str) -> Result<()> {
    policy::expect_all_matched(stopped)?;
    ensure!(dropped == 2 * DATAGRAMS, "{what}: the program dropped {dropped}");
    for v4 in [true, false] {
        Split::udp(stopped, 7001, v4).expect(what, Split::rejected(sent(v4)))?;
        Split::udp(stopped, 7002, v4).expect("let through", Split { accept: sent(v4), ..Split::default() })?;
    }
    Ok(())
}

#[test]
fn traffic_control_ingress() -> Result<()> {
    let pair = Pair::new()?;
    let program = Foreign::tcx(&pair.b, "b0", Direction::Ingress, "drop_port")?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    send(&pair.a, [Pair::B4, Pair::B6])?;
    expect_dropped(&agent.stop()?, program.done()?, "TC ingress")
}

/// Our classifier runs first and has counted them.
#[test]
fn traffic_control_egress() -> Result<()> {
    let pair = Pair::new()?;
    let program = Foreign::tcx(&pair.a, "a0", Direction::Egress, "drop_port")?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    send(&pair.a, [Pair::B4, Pair::B6])?;
    expect_dropped(&agent.stop()?, program.done()?, "TC egress")
}

/// A router that let the packet in refuses it on the way out: each interface says its own.
#[test]
fn traffic_control_egress_of_a_router() -> Result<()> {
    let path = Path::new()?;
    let program = Foreign::tcx(&path.r, "r1", Direction::Egress, "drop_port")?;
    let [near, far] = ["r0", "r1"].map(|device| Agent::start(&path.r, &Options::on(&[device]).interval(600)));
    let (near, far) = (near?, far?);
    send(&path.a, [Path::C4, Path::C6])?;
    let near = near.stop()?;
    policy::expect_all_matched(&near)?;
    for v4 in [true, false] {
        Split::udp(&near, 7001, v4).expect("on its way in", Split { accept: sent(v4), ..Split::default() })?;
    }
    expect_dropped(&far.stop()?, program.done()?, "on its way out")
}

/// Before our classifier, which never sees these. Linux 6.18 frees them without a reason, and then no record tells of
/// them; with a reason all are REJECT.
#[test]
fn generic_xdp() -> Result<()> {
    let pair = Pair::new()?;
    let program = Filter::generic_xdp(&pair.b, "b0")?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    send(&pair.a, [Pair::B4, Pair::B6])?;
    let (stopped, dropped) = (agent.stop()?, program.done()?);
    if Split::udp(&stopped, 7001, true) != Split::default() {
        return expect_dropped(&stopped, dropped, "generic XDP");
    }
    policy::expect_all_matched(&stopped)?;
    ensure!(stopped.count("drops_lost")? == 0, "{:?}", stopped.stderr);
    ensure!(dropped == 2 * DATAGRAMS, "the program dropped {dropped}");
    for v4 in [true, false] {
        Split::udp(&stopped, 7001, v4).expect("dropped without a reason", Split::default())?;
        Split::udp(&stopped, 7002, v4).expect("let through", Split { accept: sent(v4), ..Split::default() })?;
    }
    Ok(())
}

/// As systemd's `IPAddressDeny=` and container runtimes do it.
#[test]
fn cgroup_egress() -> Result<()> {
    let pair = Pair::new()?;
    let cgroup = Cgroup::new()?;
    let program = Filter::cgroup_egress(&cgroup)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    for to in [Pair::B4, Pair::B6] {
        for port in [7001, 7002] {
            cgroup.run(&pair.a, &python::datagrams_argv(to, port, SIZE, DATAGRAMS))?;
        }
    }
    expect_dropped(&agent.stop()?, program.done()?, "cgroup egress")
}
