//! What the agent says of its flows while their window goes on: each packet once, wherever it is counted at that moment,
//! under the verdict that its record will have.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent, Options, binary};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::{Firewall, Ledger};
use flowlogd_tests::status::{self, number, socket};
use flowlogd_tests::terminal::{self, ENDED, RESTORED};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Totals, UDP, policy, wait_for};
use serde_json::Value;

const HEADERS: u64 = 28;
const PAYLOAD: u64 = 100;

fn datagrams(count: u64) -> Totals {
    Totals { packets: count, bytes: count * (HEADERS + PAYLOAD) }
}

fn top(pair: &Pair, agent: &Agent, args: &str) -> Result<Output> {
    let directory = agent.state_directory().to_str().context("path")?;
    let args: Vec<&str> = ["top", "--state-directory", directory].into_iter().chain(args.split_whitespace()).collect();
    agent::call(&pair.a, &[], &args)
}

fn json(pair: &Pair, agent: &Agent, args: &str) -> Result<Value> {
    let output = top(pair, agent, &format!("--json {args}"))?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{args}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn rows(answer: &Value) -> Result<&Vec<Value>> {
    answer["flows"].as_array().context("flows")
}

fn totals(row: &Value) -> Result<Totals> {
    Ok(Totals { packets: number(row, "/packets")?, bytes: number(row, "/bytes")? })
}

/// The one row that there is.
fn only(answer: &Value) -> Result<&Value> {
    let rows = rows(answer)?;
    ensure!(rows.len() == 1, "not one row: {answer:#}");
    Ok(&rows[0])
}

#[test]
fn what_was_sent_is_there_before_the_window_ends_and_across_a_drain() -> Result<()> {
    let pair = Pair::new()?;
    let ledger = Ledger::received(&pair.b, &["b0"])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let options = Options::on(&["a0"]).interval(600).args("--flow-table-slots 64");
    let agent = Agent::start(&pair.a, &options)?;
    let drains = || number(&status::status(&pair.a, &agent)?, "/drains/count");
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, PAYLOAD as usize, 500)?;
    let before = json(&pair, &agent, "port 40000")?;
    ensure!(drains()? == 0 && totals(only(&before)?)? == datagrams(500), "{before:#}");
    // More flows than are wanted in the table.
    traffic::udp_flows(&pair.a, Pair::A4, 41000..41400, &sink, PAYLOAD as usize, 1)?;
    wait_for("an early drain", Duration::from_secs(10), || Ok((drains()? > 0).then_some(())))?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, PAYLOAD as usize, 300)?;
    let after = json(&pair, &agent, "port 40000")?;
    let row = only(&after)?;
    ensure!(totals(row)? == datagrams(800), "{after:#}");
    ensure!(before["window"] == after["window"], "{before:#} {after:#}");
    for (field, want) in [("interface", "a0"), ("direction", "egress"), ("action", "ACCEPT"), ("srcaddr", Pair::A4)] {
        ensure!(row[field] == want, "{field}: {row:#}");
    }
    // All of them, whatever is cut off.
    let all = json(&pair, &agent, "udp dir out -n 2")?;
    let (wire, matched) = (ledger.between(Pair::A4, Pair::B4, UDP)?, totals(&all["matched"])?);
    ensure!(wire == datagrams(1200) && matched == wire && rows(&all)?.len() == 2, "on the wire {wire}: {all:#}");
    ensure!(number(&all, "/matched/flows")? == 401 && totals(&rows(&all)?[0])? == datagrams(800), "{all:#}");
    // As people see it.
    let text = String::from_utf8(top(&pair, &agent, "--once port 40000")?.stdout)?;
    let words: Vec<&str> = text.lines().last().context("no line")?.split_whitespace().collect();
    let [source, destination] = ["10.77.0.1:40000", "10.77.0.2:9000"];
    let want = ["a0", "out", "ACCEPT", "udp", source, destination, "800", "102400", "0", "0"];
    ensure!(words == want, "{text}");
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    // Asking changed nothing.
    let logged = flowlogd_tests::records::by_flow(&stopped.records);
    let logged: Totals = logged.into_iter().filter(|(flow, _)| flow.protocol == UDP).map(|(_, totals)| totals).sum();
    ensure!(logged == wire, "logged {logged}");
    Ok(())
}

#[test]
fn what_was_refused_is_reject() -> Result<()> {
    let pair = Pair::new()?;
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &[("no", "udp dport 7001", "drop")])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    policy::datagrams(&pair.a, Pair::B4, 7001, 300, 200)?;
    let matched = firewall.wait_matched("no", 200)?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 1000, 200)?;
    let refused = json(&pair, &agent, "port 7001")?;
    let row = only(&refused)?;
    ensure!(row["action"] == "REJECT" && totals(row)? == matched, "{matched}: {refused:#}");
    ensure!(totals(&refused["matched"]["rejected"])? == matched, "{refused:#}");
    let by_rejects = json(&pair, &agent, "udp --sort rejects")?;
    let actions: Vec<&Value> = rows(&by_rejects)?.iter().map(|row| &row["action"]).collect();
    ensure!(actions == ["REJECT", "ACCEPT"], "{by_rejects:#}");
    let by_bytes = json(&pair, &agent, "udp")?;
    ensure!(rows(&by_bytes)?[0]["dstport"] == 9000, "{by_bytes:#}");
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(stopped.count("rejected_packets")? == 200, "{:?}", stopped.stderr);
    Ok(())
}

#[test]
fn the_agent_filters_and_says_what_is_no_filter() -> Result<()> {
    let pair = Pair::new()?;
    let (four, six) = (Sink::new(&pair.b, Pair::B4, 9000)?, Sink::new(&pair.b, Pair::B6, 9000)?);
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    traffic::udp(&pair.a, Pair::A4, 40000, &four, 100, 20)?;
    traffic::udp(&pair.a, Pair::A6, 40001, &six, 100, 30)?;
    for (filter, packets) in [
        ("udp", 50),
        ("proto 17 if a0 dir egress", 50),
        ("udp if a*", 50),
        ("udp if b0", 0),
        ("udp dir ingress", 0),
        ("udp reject", 0),
        ("udp 10.77.0.0/16", 20),
        ("udp fd77::/16", 30),
        ("10.77.0.2 port 40000", 20),
        ("port 40001", 30),
        ("udp port 9000 10.77.0.3", 0),
    ] {
        let answer = json(&pair, &agent, filter)?;
        let shown: Totals = rows(&answer)?.iter().map(totals).sum::<Result<_>>()?;
        ensure!(number(&answer, "/matched/packets")? == packets && shown.packets == packets, "{filter}: {answer:#}");
    }
    for (args, code, why) in [
        ("--once nonsense", 2, "\"nonsense\" is no filter"),
        ("--once port 65536", 2, "\"65536\" is not a port"),
        ("--once -n 0", 2, "--rows 0 is not between"),
        ("--once --sort names", 2, "invalid value 'names'"),
    ] {
        let output = top(&pair, &agent, args)?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(code) && output.stdout.is_empty(), "{args}: {:?} {said}", output.status);
        ensure!(said.lines().count() == 1 && said.contains(why), "{args}: {said}");
    }
    let path = socket(&agent);
    for (query, why) in [("port=x", "is not a port"), ("limit=0", "is not a limit"), ("flavour=1", "there is no")] {
        let said = status::get(&path, &format!("/v1/flows?{query}"))?;
        ensure!(serde_json::from_str::<Value>(&said)?["error"].as_str().is_some_and(|it| it.contains(why)), "{said}");
    }
    let one: Value = serde_json::from_str(&status::get(&path, "/v1/flows?protocol=udp&limit=1&sort=packets")?)?;
    ensure!(only(&one)?["srcport"] == 40001, "{one:#}");
    agent.stop()?;
    Ok(())
}

/// Sorting, filtering and pausing, an agent that goes and comes back, and all ways to end.
#[test]
fn the_live_view_gives_the_terminal_back() -> Result<()> {
    let pair = Pair::new()?;
    let pins = flowlogd_tests::bpffs::BpfFs::new()?;
    let options = Options::on(&["a0"]).pins_in(&pins).interval(600);
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.a, &options)?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 20)?;
    let state = agent.state_directory().to_str().context("path")?.to_owned();
    let (program, args) = (binary()?, ["top", "--state-directory", &state]);
    let flow = "see 10.77.0.1:40000";
    let script = [
        flow,
        "type r",
        "see rejects",
        "type /",
        "see filter:",
        "type port 1\\r",
        "see filter port 1",
        "type /",
        "see filter: port 1",
        "type \\x7f40000\\r",
        flow,
        "type ?",
        "see keys",
        "type x",
        "type a",
        "see names",
        "type  ",
        "see paused",
        "type q",
    ];
    let played = terminal::play(&script, &program, &args)?;
    ensure!(played == RESTORED, "{played}");
    for signal in ["signal 15", "signal 2", "signal 1"] {
        let played = terminal::play(&[flow, signal], &program, &args)?;
        ensure!(played == RESTORED, "{signal}: {played}");
    }
    let played = terminal::play(&[flow, "type \\x03"], &program, &args)?;
    ensure!(played == RESTORED, "^C: {played}");
    // The terminal goes away, also for who ignores that.
    let played = terminal::play(&[flow, "hangup"], &program, &args)?;
    ensure!(played == ENDED, "hangup: {played}");
    let deaf = format!("trap '' HUP; exec {} top --state-directory {state}", program.display());
    let played = terminal::play(&[flow, "hangup"], Path::new("/bin/sh"), &["-c", &deaf])?;
    ensure!(played == ENDED, "hangup, ignored: {played}");
    // The agent dies, and is there again.
    let [seen, said, back] = ["seen", "said", "back"].map(|name| pins.state().join(name));
    let touch = |path: &Path| format!("run touch {}", path.display());
    let wait = format!("run until [ -e {} ]; do sleep 0.05; done", back.display());
    let script = [flow, &touch(&seen), "see not of this moment", &touch(&said), &wait, "see sorted by", "type q"];
    let played = std::thread::scope(|scope| -> Result<String> {
        let playing = scope.spawn(|| terminal::play(&script, &program, &args));
        wait_for("the view", Duration::from_secs(20), || Ok(seen.exists().then_some(())))?;
        agent.kill()?;
        wait_for("the error", Duration::from_secs(20), || Ok(said.exists().then_some(())))?;
        let next = Agent::start(&pair.a, &options)?;
        std::fs::write(&back, "")?;
        let played = playing.join().map_err(|_| anyhow::anyhow!("the player panicked"))?;
        next.stop()?;
        played
    })?;
    ensure!(played == RESTORED, "over a restart: {played}");
    Ok(())
}
