//! Objects in text and in Parquet hold the same, in every layout, for everybody who reads AWS's.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent};
use flowlogd_tests::consumers::{self, Published};
use flowlogd_tests::delivery::{self, BUCKET, ConfigFile};
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::steady::Steady;
use flowlogd_tests::{flowlogs_reader, traffic};
use serde_json::Value;

/// Versions 2 to 5, in AWS's order.
const WIDE: &str = "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} \
                    ${packets} ${bytes} ${start} ${end} ${action} ${log-status} ${vpc-id} ${subnet-id} ${instance-id} \
                    ${tcp-flags} ${type} ${pkt-srcaddr} ${pkt-dstaddr} ${region} ${az-id} ${sublocation-type} \
                    ${sublocation-id} ${pkt-src-aws-service} ${pkt-dst-aws-service} ${flow-direction} ${traffic-path}";
const TIMEOUT: Duration = Duration::from_millis(300);
/// By Hive, by hour; and the folder's name.
const LAYOUTS: [(bool, bool, &str); 4] =
    [(false, false, "plain"), (false, true, "hour"), (true, false, "hive"), (true, true, "hive-hour")];

fn flow_logs(url: &str) -> Vec<String> {
    let mut logs = Vec::new();
    for (kind, file_format) in [("text", "plain-text"), ("parquet", "parquet")] {
        for (hive, hour, layout) in LAYOUTS {
            logs.push(format!(
                "{}destination-options = {{ file-format = \"{file_format}\", hive-compatible-partitions = {hive}, \
                 per-hour-partition = {hour} }}\n",
                delivery::s3_in(&format!("{kind}-{layout}"), url)
            ));
        }
        logs.push(format!(
            "{}log-format = \"{WIDE}\"\ndestination-options = {{ file-format = \"{file_format}\" }}\n",
            delivery::s3_in(&format!("{kind}-wide"), url)
        ));
    }
    logs
}

fn printed(ns: &Netns, config: &Path, arguments: &[&str]) -> Result<String> {
    let config = config.to_str().context("path")?;
    let output = agent::call(ns, &[], &[arguments, &["--config", config]].concat())?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What is in each folder, and the statements for it.
fn published(ns: &Netns, config: &Path) -> Result<Vec<Published>> {
    let listed: Value = serde_json::from_str(&printed(ns, config, &["list", "--json"])?)?;
    let one = |log: &Value| {
        let text = |name: &str| log[name].as_str().context(name.to_owned());
        let folder = text("LogDestination")?.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let dialect =
            |dialect| printed(ns, config, &["athena", "--flow-log", text("FlowLogId")?, "--dialect", dialect]);
        let is_parquet = log["DestinationOptions"]["FileFormat"] == "parquet";
        Ok(Published { folder, is_parquet, athena: dialect("athena")?, duckdb: dialect("duckdb")? })
    };
    listed["FlowLogs"].as_array().context("FlowLogs")?.iter().map(one).collect()
}

#[test]
fn who_reads_aws_reads_text_and_parquet() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let config = ConfigFile::new(&flow_logs(&format!("http://{}", moto.address)))?;
    let agent = Agent::start(&pair.a, &config.options())?;
    // What queries ask for, and is not in the sums below: transfers to ports that they name, and a connection that the firewall refuses.
    for port in [443, 5900] {
        traffic::iperf_tcp(&pair.a, &pair.b, Pair::B4, port, "-n 100K")?;
    }
    for rule in [
        "table inet ssh",
        "chain inet ssh input { type filter hook input priority 1 ; }",
        "rule inet ssh input tcp dport 22 drop",
    ] {
        pair.a.sh(&format!("nft add {rule}"))?;
    }
    let refused = pair.b.enter(|| Ok(TcpStream::connect_timeout(&format!("{}:22", Pair::A4).parse()?, TIMEOUT)))?;
    ensure!(refused.is_err(), "connected");
    let traffic = Steady::start(&pair)?;
    traffic.wait(500)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;

    let logs = published(&pair.a, &config.path())?;
    let (readings, empty) = consumers::read(&pair.a, &moto, BUCKET, &logs)?;
    ensure!(readings.len() == 20, "{:?}", readings.keys());
    let records = readings.values().next().context("readings")?.records;
    for ((folder, reader), reading) in &readings {
        ensure!(reading.records == records, "{reader} read {} of {records} in {folder}", reading.records);
        sent.expect_flows(&reading.flows).with_context(|| format!("{reader}, {folder}"))?;
    }
    ensure!(empty.is_empty(), "queries without an answer: {empty:?}");
    // It looks for no layout of Hive's.
    for log in logs.iter().filter(|log| !log.folder.contains("hive")) {
        let reading = flowlogs_reader::s3(&pair.a, &moto, BUCKET, &log.folder)?;
        ensure!(reading.records == records, "flowlogs-reader read {} in {}", reading.records, log.folder);
        sent.expect_flows(&reading.flows).context(log.folder.clone())?;
    }
    Ok(())
}

/// AWS's lists, as far as the queries need them (CWL_QuerySyntax, CWL_AnalyzeLogData-discoverable-fields).
const COMMANDS: [&str; 5] = ["filter", "limit", "parse", "sort", "stats"];
const WORDS: [&str; 10] =
    ["as", "asc", "bin", "by", "count", "count_distinct", "desc", "isIpv4InSubnet", "sum", "@message"];
const DISCOVERED: [&str; 14] = [
    "accountId",
    "action",
    "bytes",
    "dstAddr",
    "dstPort",
    "end",
    "interfaceId",
    "logStatus",
    "packets",
    "protocol",
    "srcAddr",
    "srcPort",
    "start",
    "version",
];

/// Nothing outside AWS runs them: every command, function and field is one that there is.
#[test]
fn insights_queries_use_what_there_is() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/queries/logs-insights");
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        check_insights(&text).with_context(|| path.display().to_string())?;
        files += 1;
    }
    ensure!(files >= 8, "{files} queries");
    ensure!(check_insights("filter srcaddr = 1").is_err() && check_insights("where bytes > 1").is_err());
    Ok(())
}

fn check_insights(text: &str) -> Result<()> {
    let query: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let query = query.join(" ");
    // Every second part is between quotes.
    let query: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let mut named: BTreeSet<&str> = DISCOVERED.into();
    for part in query.split('|') {
        let is_word = |c: char| c.is_alphanumeric() || "_@".contains(c);
        let mut words = part.split(|c| !is_word(c)).filter(|word| !word.is_empty());
        let command = words.next().context("an empty command")?;
        ensure!(COMMANDS.contains(&command), "{command} is no command");
        let mut is_name = false;
        for word in words {
            let is_number = word.starts_with(|c: char| c.is_ascii_digit());
            if is_name {
                named.insert(word);
            }
            ensure!(is_number || WORDS.contains(&word) || named.contains(word), "{word} is not there");
            // `parse … as a, b` names all that follow.
            is_name = word == "as" || (is_name && command == "parse");
        }
    }
    Ok(())
}
