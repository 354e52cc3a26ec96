//! Whatever the network and the services answer, everything arrives; what needs a person is said once and waits.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile, FOLDER};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::steady::Steady;

const MODES: [Mode; 8] = [
    Mode::Latency(Duration::from_millis(300)),
    Mode::ResetMidBody,
    Mode::UNAVAILABLE,
    Mode::THROTTLED,
    Mode::EXPIRED_TOKEN,
    Mode::INTERNAL,
    Mode::TruncateResponse,
    Mode::Down,
];

/// Twice what there are destinations, so that each of them is likely to have met a mode.
const MEETINGS: usize = 6;

#[test]
fn every_fault_in_turn() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let config = ConfigFile::new(&[
        delivery::s3_by_window(&proxy.url()),
        delivery::cloud_watch_logs(&proxy.url()),
        delivery::firehose(&proxy.url()),
    ])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    for mode in MODES {
        // Half of the requests pass, and so backoff stays short.
        proxy.set_every(2, mode)?;
        if mode == Mode::Down {
            traffic.wait(1000)?;
        } else {
            proxy.wait_met(mode, MEETINGS).with_context(|| format!("{:?}", agent.said()))?;
        }
    }
    proxy.set(Mode::Pass)?;
    traffic.wait(1000)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)?;
    sent.expect_each_once(&[delivery::distinct(delivery::events(&moto)?)])?;
    sent.expect_each_once(&[delivery::distinct(delivery::hosed(&moto)?)])
}

fn waits_for_a_person(mode: Mode, code: &str) -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let config = ConfigFile::new(&[delivery::s3_by_window(&proxy.url())])?;
    proxy.set(mode)?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    agent.wait_said(code)?;
    traffic.wait(3000)?;
    let said = agent.said().iter().filter(|line| line.contains(code)).count();
    ensure!(said == 1, "said {said} times: {:?}", agent.said());
    proxy.set(Mode::Pass)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}

#[test]
fn access_denied_waits_for_a_person() -> Result<()> {
    waits_for_a_person(Mode::ACCESS_DENIED, "AccessDenied")
}

#[test]
fn a_missing_bucket_waits_for_a_person() -> Result<()> {
    waits_for_a_person(Mode::NO_SUCH_BUCKET, "NoSuchBucket")
}

#[test]
fn a_clock_that_is_off_is_named() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let config = ConfigFile::new(&[delivery::s3_by_window(&proxy.url())])?;
    proxy.set(Mode::CLOCK_SKEWED)?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    agent.wait_said("RequestTimeTooSkewed")?;
    let said = agent.said();
    ensure!(said.iter().any(|line| line.contains("RequestTimeTooSkewed") && line.contains("clock")), "{said:?}");
    proxy.set(Mode::Pass)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}
