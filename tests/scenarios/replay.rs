//! A capture of the same packets gives the agent's records: same flows, packets and bytes; and the same bytes each time.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path as FilePath;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent, Options};
use flowlogd_tests::netns::{Background, Netns, Path};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Flow, Totals, expect_equal, records, wait_for};

/// tcpdump as it runs, ready to see packets.
struct Capture<'a> {
    file: &'a str,
    _tcpdump: Background,
}

impl<'a> Capture<'a> {
    fn start(ns: &Netns, arguments: &str, file: &'a str) -> Result<Self> {
        // Each packet is in the file when it was seen; root stays root, whose file it is.
        let tcpdump = ns.spawn(&format!("tcpdump -n -U -B 65536 -Z root {arguments} -w {file}"))?;
        wait_for("header of a capture", Duration::from_secs(10), || {
            Ok(fs::metadata(file).is_ok_and(|metadata| metadata.len() >= 24).then_some(()))
        })?;
        Ok(Self { file, _tcpdump: tcpdump })
    }

    /// Until nothing more comes.
    fn finish(self) -> Result<()> {
        let mut last = (0, 0);
        wait_for("end of a capture", Duration::from_secs(20), || {
            let len = fs::metadata(self.file)?.len();
            last = if len == last.0 { (len, last.1 + 1) } else { (len, 0) };
            std::thread::sleep(Duration::from_millis(100));
            Ok((last.1 >= 10).then_some(()))
        })
    }
}

fn replay(ns: &Netns, file: &str) -> Result<Output> {
    agent::call(ns, &[], &["replay", file, "--max-aggregation-interval", "1"])
}

fn text(output: &Output) -> Result<&str> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    Ok(std::str::from_utf8(&output.stdout)?)
}

/// Flows that cross the routers: what hosts say to their own link (MLD) is on one end's link only.
fn routed(records: &[records::Record]) -> Result<BTreeMap<Flow, Totals>> {
    let ends: [IpAddr; 4] = [Path::A4.parse()?, Path::C4.parse()?, Path::A6.parse()?, Path::C6.parse()?];
    let mut flows = records::by_flow(records);
    flows.retain(|flow, _| ends.contains(&flow.src) && ends.contains(&flow.dst));
    Ok(flows)
}

/// The agent sees super-packets where tcpdump, behind a router that cuts them, sees what the wire carries.
#[test]
fn a_capture_gives_the_agents_records() -> Result<()> {
    let path = Path::new()?;
    let directory = tempfile::tempdir()?;
    let name = |name: &str| Ok::<_, anyhow::Error>(directory.path().join(name).to_str().context("path")?.to_owned());
    let (ethernet, cooked) = (name("ethernet.pcap")?, name("cooked.pcap")?);
    let agent = Agent::start(&path.a, &Options::on(&["a0"]))?;
    let captures = [
        Capture::start(&path.c, "-i c0 -s 96 --time-stamp-precision=nano", &ethernet)?,
        Capture::start(&path.c, "-i any -y LINUX_SLL2 -s 128", &cooked)?,
    ];
    for (near, far) in [(Path::A4, Path::C4), (Path::A6, Path::C6)] {
        traffic::ping(&path.a, far, 3)?;
        let sink = Sink::new(&path.c, far, 9000)?;
        traffic::udp_gso(&path.a, near, 40000, &sink, 1200, 30, 20)?;
        // In fragments.
        traffic::udp(&path.a, near, 40001, &sink, 4000, 50)?;
        traffic::iperf_tcp(&path.a, &path.c, far, 5201, "-n 4M")?;
    }
    path.settle()?;
    captures.into_iter().try_for_each(Capture::finish)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let expected = routed(&stopped.records)?;
    ensure!(expected.len() >= 10, "{} flows", expected.len());
    for file in [&ethernet, &cooked] {
        let first = replay(&path.a, file)?;
        let lines = records::parse_lines(text(&first)?)?;
        expect_equal(&expected, &routed(&lines)?).with_context(|| file.clone())?;
        let times = |records: &[records::Record]| {
            let flows = records.iter().filter(|record| record.flow().is_some_and(|(flow, _)| !flow.dst.is_multicast()));
            (flows.clone().map(|it| it.start).min(), flows.map(|it| it.end).max())
        };
        let ((first_start, last_end), (start, end)) = (times(&stopped.records), times(&lines));
        let differ = |one: Option<u64>, other: Option<u64>| one.zip(other).is_none_or(|(a, b)| a.abs_diff(b) > 1);
        ensure!(!differ(first_start, start) && !differ(last_end, end), "{start:?} to {end:?}");
        // Anywhere, and at any time.
        ensure!(replay(&path.c, file)?.stdout == first.stdout, "another run gives other bytes");
    }
    cut_short(&path.a, FilePath::new(&ethernet))
}

/// One line on standard error, exit code 1, and the records of what is there.
fn cut_short(ns: &Netns, file: &FilePath) -> Result<()> {
    let whole = fs::read(file)?;
    fs::write(file, &whole[..whole.len() / 2 + 1])?;
    let output = replay(ns, file.to_str().context("path")?)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.lines().count() == 1, "{}: {said}", output.status);
    ensure!(said.contains("in the middle of a packet"), "{said}");
    ensure!(!records::parse_lines(std::str::from_utf8(&output.stdout)?)?.is_empty(), "no records");
    Ok(())
}
