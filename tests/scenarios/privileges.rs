//! CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are enough for all that an agent does, also with what another one has left.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::{status, traffic};

/// Root, so that files are its own, but with these alone.
const WRAPPER: [&str; 2] = ["setpriv", "--bounding-set=-all,+bpf,+perfmon,+net_admin"];
const GIVEN: &str = "effective=CAP_NET_ADMIN,CAP_PERFMON,CAP_BPF";

#[test]
fn three_capabilities_are_enough() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    let mut options = Options::on(&["a0"]).interval(600).pins_in(&pins);
    options.wrapper = WRAPPER.map(str::to_owned).to_vec();
    let first = Agent::start(&pair.a, &options)?;
    ensure!(first.said().iter().any(|line| line.contains(GIVEN)), "{:?}", first.said());
    traffic::ping(&pair.a, Pair::B4, 5)?;
    status::status(&pair.a, &first)?;
    first.kill()?;
    // Goes on with programs that it did not load.
    let second = Agent::start(&pair.a, &options)?;
    let said = status::status(&pair.a, &second)?;
    ensure!(said["pinned"] == true && said["verdicts"]["available"] == true, "{said:#}");
    ensure!(status::ip_seen(status::interface(&said, "a0")?, "ingress")?.packets >= 5, "{said:#}");
    second.stop()?.expect_nothing_lost()?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}
