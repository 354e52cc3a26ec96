//! What Firehose is given is what AWS's own flow logs give it, and holds every packet.

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records;
use flowlogd_tests::steady::Steady;

#[test]
fn a_message_for_each_line() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let config = ConfigFile::new(&[delivery::firehose(&format!("http://{}", moto.address))])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(1500)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&[delivery::hosed(&moto)?])
}

#[test]
fn lines_packed_into_records() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let log = delivery::firehose(&format!("http://{}", moto.address)) + "framing = \"lines\"\n";
    let agent = Agent::start(&pair.a, &ConfigFile::new(&[log])?.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(1500)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    let mut all = Vec::new();
    for object in moto.objects("hose")? {
        let text = String::from_utf8(object.body)?;
        let lines = text.strip_suffix('\n').context("no newline at the end")?;
        ensure!(!lines.contains("version"), "a header line");
        all.push(records::parse_lines(lines)?);
    }
    sent.expect_each_once(&all)
}
