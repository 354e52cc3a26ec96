//! Metrics: off by default, never for another host, and as Prometheus and node_exporter read them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, binary, refusal};
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::status::{self, curl, promtool, series, socket, value};
use flowlogd_tests::{traffic, wait_for};
use tempfile::TempDir;

/// Local addresses, in hex, on which TCP is listened in the agent's namespace.
fn listening(agent: &Agent) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{}/net/{table}", agent.pid()))?;
        let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        found.extend(rows.filter(|row| row[3] == "0A").map(|row| row[1].to_owned()));
    }
    Ok(found)
}

/// A configuration with metrics as these lines say, and one flow log.
fn configured(directory: &Path, metrics: &str) -> Result<ConfigFile> {
    let config = ConfigFile::new(&[])?;
    config.write_with(&format!("[metrics]\n{metrics}\n"), &[delivery::directory(directory)])?;
    Ok(config)
}

#[test]
fn nobody_listens_on_tcp_unless_asked_to() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    ensure!(listening(&agent)?.is_empty(), "{:?}", listening(&agent)?);
    agent.stop()?;
    Ok(())
}

#[test]
fn on_loopback_prometheus_reads_them() -> Result<()> {
    let pair = Pair::new()?;
    let records = TempDir::new()?;
    pair.a.sh("ip link set lo up")?;
    let config = configured(records.path(), "listen = \"127.0.0.1:9995\"")?;
    let agent = Agent::start(&pair.a, &config.options())?;
    ensure!(listening(&agent)? == ["0100007F:270B"], "{:?}", listening(&agent)?);
    traffic::ping(&pair.a, Pair::B4, 5)?;
    let get = |path: &str| pair.a.sh(&format!("curl --silent --max-time 20 http://127.0.0.1:9995{path}"));
    // What there is nothing of yet is not there: by its name on the socket, before and after.
    let names = |text: &str| text.lines().filter(|line| line.starts_with("# ")).map(str::to_owned).collect::<Vec<_>>();
    let on_socket = || Ok::<_, anyhow::Error>(names(&status::get(&socket(&agent), "/metrics")?));
    let before = on_socket()?;
    let text = get("/metrics")?;
    let after = on_socket()?;
    ensure!([before, after].contains(&names(&text)), "{text}");
    let all = series(&text)?;
    ensure!(value(&all, "flowlogd_interface_packets_total{interface=\"a0\",direction=\"egress\"}")? >= 5, "{text}");
    let kind = pair.a.sh("curl --silent --head --request GET http://127.0.0.1:9995/metrics")?;
    ensure!(kind.contains("content-type: text/plain; version=0.0.4"), "{kind}");
    // What is on the socket only.
    ensure!(get("/v1/status")?.contains("there is no /v1/status"), "status over TCP");
    let file = records.path().join("text");
    fs::write(&file, &text)?;
    promtool(&["check", "metrics"], Some(&file))?;
    agent.stop()?;
    Ok(())
}

#[test]
fn on_a_socket_of_their_own() -> Result<()> {
    let pair = Pair::new()?;
    let records = TempDir::new()?;
    let path = records.path().join("metrics.sock");
    let config = configured(&records.path().join("r"), &format!("listen = \"unix:{}\"", path.display()))?;
    let agent = Agent::start(&pair.a, &config.options())?;
    ensure!(listening(&agent)?.is_empty(), "{:?}", listening(&agent)?);
    ensure!(status::get(&path, "/metrics")?.contains("flowlogd_build_info{version="));
    ensure!(status::get(&path, "/v1/status")?.contains("there is no /v1/status"));
    ensure!(fs::metadata(&path)?.mode() & 0o777 == 0o660);
    agent.stop()?;
    ensure!(!path.exists());
    Ok(())
}

#[test]
fn other_hosts_are_refused_in_one_line() -> Result<()> {
    let pair = Pair::new()?;
    let records = TempDir::new()?;
    for (line, why) in [
        ("listen = \"0.0.0.0:9995\"", "metrics.listen: 0.0.0.0:9995 can be reached from other hosts"),
        ("listen = \"10.77.0.1:9995\"", "metrics.listen: 10.77.0.1:9995 can be reached from other hosts"),
        ("listen = 9995", "metrics.listen: must be a string"),
        ("textfile = \"/tmp/flowlogd.txt\"", "metrics.textfile: /tmp/flowlogd.txt must end in .prom"),
    ] {
        let config = configured(records.path(), line)?;
        let path = config.path();
        for command in ["run", "check"] {
            let refused = refusal(&pair.a, &[], &binary()?, &[command, "--config", &path.to_string_lossy()])?;
            let said = refused.stderr.join("\n");
            ensure!(refused.code == Some(2) && refused.stderr.len() == 1 && said.contains(why), "{line}: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_port_that_is_taken_stops_nobody() -> Result<()> {
    let pair = Pair::new()?;
    let records = TempDir::new()?;
    pair.a.sh("ip link set lo up")?;
    let taken = pair.a.enter(|| Ok(std::net::TcpListener::bind("127.0.0.1:9995")?))?;
    let config = configured(records.path(), "listen = \"127.0.0.1:9995\"")?;
    let agent = Agent::start(&pair.a, &config.options())?;
    agent.wait_said("no metrics: cannot listen on 127.0.0.1:9995")?;
    status::status(&pair.a, &agent)?;
    drop(taken);
    agent.stop()?;
    Ok(())
}

#[test]
fn as_a_file_for_node_exporter() -> Result<()> {
    let pair = Pair::new()?;
    let records = TempDir::new()?;
    let path = records.path().join("flowlogd.prom");
    let config = configured(&records.path().join("r"), &format!("textfile = \"{}\"", path.display()))?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let read = || Ok(fs::read_to_string(&path).ok());
    let text = wait_for("the file", Duration::from_secs(10), read)?;
    ensure!(fs::metadata(&path)?.mode() & 0o777 == 0o644);
    promtool(&["check", "metrics"], Some(&path))?;
    traffic::ping(&pair.a, Pair::B4, 5)?;
    let sent = "flowlogd_interface_packets_total{interface=\"a0\",direction=\"egress\"}";
    let before = value(&series(&text)?, sent)?;
    // Written anew every 15 s; whoever reads meanwhile finds a whole one.
    wait_for("the next file", Duration::from_secs(30), || {
        let all = series(&fs::read_to_string(&path)?)?;
        ensure!(all.contains_key("flowlogd_start_time_seconds"), "half a file: {all:#?}");
        Ok((value(&all, sent)? >= before + 5).then_some(()))
    })?;
    ensure!(!path.with_extension("prom.tmp").exists());
    agent.stop()?;
    Ok(())
}

#[test]
fn prometheus_takes_the_rules() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/prometheus");
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    promtool(&["check", "rules", &path("flowlogd.rules.yml")], None)?;
    promtool(&["test", "rules", &path("flowlogd.test.yml")], None)
}

#[test]
fn curl_reads_them_on_the_agents_socket() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let path = socket(&agent);
    let answer = curl(&["--include", "--unix-socket", &path.to_string_lossy(), "http://flowlogd/v1/status"])?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("content-type: application/json"), "{answer}");
    agent.stop()?;
    Ok(())
}
