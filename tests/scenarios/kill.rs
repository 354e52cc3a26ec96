//! Killed at any moment, the agent loses nothing and logs nothing twice.

use std::env;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records;
use flowlogd_tests::steady::Steady;
use tempfile::TempDir;

const KILLS: u32 = 50;
/// More than a window.
const LIFE_MILLISECONDS: u64 = 1200;

#[test]
fn killed_at_fifty_random_moments() -> Result<()> {
    // To see a failure again: FLOWLOGD_TEST_SEED=.
    let seed = match env::var("FLOWLOGD_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => fastrand::u64(..),
    };
    killed_at_random(seed).with_context(|| format!("FLOWLOGD_TEST_SEED={seed}"))
}

fn killed_at_random(seed: u64) -> Result<()> {
    eprintln!("FLOWLOGD_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let options = Options::on(&["a0"]).interval(1).into(logs.path()).pins_in(&pins);
    // Before it nobody counts.
    let mut agent = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    for _ in 0..KILLS {
        // One half in its life, the other mostly in its start.
        if random.bool() {
            agent.wait_said("flowlogd ready:")?;
        }
        thread::sleep(Duration::from_millis(random.u64(..LIFE_MILLISECONDS)));
        agent.kill()?;
        agent = Agent::spawn(&pair.a, &options)?;
    }
    agent.wait_said("flowlogd ready:")?;
    let sent = traffic.stop()?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    sent.expect_each_once(&records::read_objects(logs.path())?)
}
