//! Formats of every field: each value against the traffic and the configuration; AWS's examples of tcp-flags and of a NAT
//! gateway, live.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent, Options};
use flowlogd_tests::consumers;
use flowlogd_tests::container::Container;
use flowlogd_tests::delivery;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::policy;
use flowlogd_tests::traffic::{self, Sink};
use tempfile::TempDir;

/// A record by the names of its fields.
type Row = BTreeMap<String, String>;

/// Seconds of a window.
const INTERVAL: u64 = 2;

fn rows(header: &[String], lines: &[String]) -> Result<Vec<Row>> {
    let row = |line: &String| {
        let values: Vec<&str> = line.split(' ').collect();
        ensure!(values.len() == header.len(), "{} values for {} fields: {line}", values.len(), header.len());
        Ok(header.iter().cloned().zip(values.into_iter().map(str::to_owned)).collect())
    };
    lines.iter().map(row).collect()
}

/// Its multicast comes when an address is new.
fn is_not_the_kernels(row: &&Row) -> bool {
    !row["pkt-dstaddr"].starts_with("ff02:")
}

fn format_of(header: &[String]) -> String {
    header.iter().map(|name| format!("${{{name}}}")).collect::<Vec<_>>().join(" ")
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// One flow log to stdout; `host` and `log` are lines of the two tables.
fn configuration(directory: &TempDir, host: &str, interfaces: &str, header: &[String], log: &str) -> Result<Options> {
    let path = directory.path().join("flowlogd.toml");
    let format = format_of(header);
    let text = format!(
        "[host]\n{host}\n[[flow-log]]\nlog-destination-type = \"stdout\"\ninterfaces = {interfaces}\n\
         max-aggregation-interval = {INTERVAL}\nlog-format = \"{format}\"\n{log}\n"
    );
    fs::write(&path, text)?;
    Ok(Options::of_file(&path))
}

/// Until a window has just begun, so that what follows is in one.
fn await_window() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let interval = Duration::from_secs(INTERVAL).as_millis();
    let left = interval - now.as_millis() % interval;
    thread::sleep(Duration::from_millis(u64::try_from(left)? + 100));
    Ok(())
}

const RANGES: &str = r#"{"syncToken": "1", "createDate": "d", "prefixes": [
    {"ip_prefix": "10.77.0.0/24", "region": "r", "service": "AMAZON", "network_border_group": "r"},
    {"ip_prefix": "10.77.0.0/24", "region": "r", "service": "EC2", "network_border_group": "r"},
    {"ip_prefix": "10.77.0.2/32", "region": "r", "service": "SERVICE", "network_border_group": "r"}],
    "ipv6_prefixes": [
    {"ipv6_prefix": "fd77::/64", "region": "r", "service": "CLOUDFRONT", "network_border_group": "r"}]}"#;

const HOST: &str = r#"
account-id = "210987654321"
region = "eu-west-1"
vpc-id = "vpc-0123456789abcdef0"
subnet-id = "subnet-0123456789abcdef0"
instance-id = "i-0123456789abcdef0"
az-id = "euw1-az2"
interface-ids = { a0 = "eni-0123456789abcdef0" }
traffic-path = 8
labels = { role = "web server", team = "zahlen & spaß" }
interface-labels = { a0 = { network = "dmz" } }
"#;

const LOG: &str =
    r#"tag-field-specifications = { instance = ["role", "team"], network-interface = ["network", "none"] }"#;

/// What every record has, whatever its status.
const KNOWN: [(&str, &str); 12] = [
    ("version", "11"),
    ("account-id", "210987654321"),
    ("interface-id", "eni-0123456789abcdef0"),
    ("vpc-id", "vpc-0123456789abcdef0"),
    ("subnet-id", "subnet-0123456789abcdef0"),
    ("region", "eu-west-1"),
    ("az-id", "euw1-az2"),
    ("instance-tag", "web%20server"),
    ("instance-tag-2", "zahlen%20%26%20spa%C3%9F"),
    ("interface-tag", "dmz"),
    ("interface-tag-2", "-"),
    ("x-interface-name", "a0"),
];

/// What no host has a value for.
const NEVER: &str = "sublocation-type sublocation-id ecs-cluster-arn ecs-cluster-name ecs-container-instance-arn \
    ecs-container-instance-id ecs-container-id ecs-second-container-id ecs-service-name ecs-task-definition-arn \
    ecs-task-arn ecs-task-id reject-reason resource-id encryption-status asg-tag asg-tag-2 interface-type \
    next-hop-interface-id next-hop-subnet-id next-hop-az-id next-hop-vpc-id next-hop-interface-type";

/// Of a flow from a0's host: addresses, both ports, protocol, packets and bytes.
fn of_flow(row: &Row) -> [&str; 9] {
    let names = ["srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "type", "flow-direction"];
    names.map(|name| row[name].as_str())
}

#[test]
fn every_field_of_every_version() -> Result<()> {
    let pair = Pair::new()?;
    let directory = TempDir::new()?;
    let ranges = directory.path().join("ip-ranges.json");
    fs::write(&ranges, RANGES.replace("SERVICE", "S3"))?;
    let header: Vec<String> = agent::output(&pair.a, &["fields"])?
        .iter()
        .filter_map(|line| Some(line.split('\t').next()?.to_owned()))
        .collect();
    ensure!(header.len() == 57 && header.iter().filter(|name| name.starts_with("x-")).count() == 3, "{header:?}");
    let host = format!("{HOST}\nip-ranges = {ranges:?}");
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    // The same in Parquet.
    let objects = directory.path().join("objects");
    let log = format!(
        "{LOG}\n[[flow-log]]\nlog-destination-type = \"directory\"\nlog-destination = {objects:?}\ninterfaces = [\"a0\"]\n\
         max-aggregation-interval = {INTERVAL}\nlog-format = \"{}\"\n{LOG}\n\
         destination-options = {{ file-format = \"parquet\" }}",
        format_of(&header)
    );
    let agent = Agent::start(&pair.a, &configuration(&directory, &host, r#"["a0"]"#, &header, &log)?)?;

    // A newer list of AWS's is taken in; a broken one after it is not.
    let another = r#""ipv6_prefixes": [{"ipv6_prefix": "fd78::/64", "service": "EBS"},"#;
    let newer = RANGES.replace("SERVICE", "DYNAMODB").replace(r#""ipv6_prefixes": ["#, another);
    for (text, said) in [(newer.as_str(), "services=4"), ("{", "is not AWS's")] {
        fs::write(&ranges, text)?;
        agent.wait_said(said)?;
    }
    let (sink4, sink6) = (Sink::new(&pair.b, Pair::B4, 9000)?, Sink::new(&pair.b, Pair::B6, 9000)?);
    await_window()?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink4, 172, 7)?;
    traffic::udp(&pair.a, Pair::A6, 40000, &sink6, 152, 5)?;
    traffic::ping(&pair.a, Pair::B4, 1)?;
    for _ in 0..3 {
        await_window()?;
    }
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let ended = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();

    let mut rows = rows(&header, &stopped.stdout)?;
    let mut in_parquet = consumers::parquet_rows(&delivery::files(&objects)?)?;
    rows.sort();
    in_parquet.sort();
    ensure!(in_parquet == rows, "{in_parquet:?}\nis not\n{rows:?}");
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname")?;
    for row in &rows {
        for (name, value) in KNOWN.into_iter().chain([("x-hostname", hostname.trim())]) {
            ensure!(row[name] == value, "{name}: {row:?}");
        }
        for name in NEVER.split_whitespace() {
            ensure!(row[name] == "-", "{name}: {row:?}");
        }
        let (start, end): (u64, u64) = (row["start"].parse()?, row["end"].parse()?);
        ensure!(started <= start && start <= end && end <= ended && start / INTERVAL == end / INTERVAL, "{row:?}");
    }
    let (mut flows, rest): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row["log-status"] == "OK");
    flows.retain(is_not_the_kernels);
    flows.sort_by_key(|row| (row["protocol"].parse::<u8>().ok(), row["type"].clone(), row["flow-direction"].clone()));
    let want = [
        [Pair::A4, Pair::B4, "0", "0", "1", "1", "84", "IPv4", "egress"],
        [Pair::B4, Pair::A4, "0", "0", "1", "1", "84", "IPv4", "ingress"],
        [Pair::A4, Pair::B4, "40000", "9000", "17", "7", "1400", "IPv4", "egress"],
        ["fd77::1", "fd77::2", "40000", "9000", "17", "5", "1000", "IPv6", "egress"],
    ];
    ensure!(flows.iter().map(|row| of_flow(row)).eq(want), "{flows:?}");
    for row in flows {
        let service = |address: &str| match address {
            Pair::A4 => "EC2",
            Pair::B4 => "DYNAMODB",
            _ => "CLOUDFRONT",
        };
        for (name, value) in [
            ("pkt-srcaddr", row["srcaddr"].as_str()),
            ("pkt-dstaddr", &row["dstaddr"]),
            ("pkt-src-aws-service", service(&row["srcaddr"])),
            ("pkt-dst-aws-service", service(&row["dstaddr"])),
            ("traffic-path", if row["flow-direction"] == "egress" { "8" } else { "-" }),
            ("tcp-flags", "0"),
            ("action", "ACCEPT"),
            ("x-drop-reason", "-"),
            ("instance-id", "i-0123456789abcdef0"),
        ] {
            ensure!(row[name] == value, "{name} is not {value}: {row:?}");
        }
    }
    ensure!(!rest.is_empty(), "no window without traffic: {rows:?}");
    let of_a_flow = "x-drop-reason srcaddr dstaddr srcport dstport protocol packets bytes action instance-id tcp-flags type pkt-srcaddr \
        pkt-dstaddr pkt-src-aws-service pkt-dst-aws-service flow-direction traffic-path";
    for row in rest {
        ensure!(row["log-status"] == "NODATA", "{row:?}");
        for name in of_a_flow.split_whitespace() {
            ensure!(row[name] == "-", "{name}: {row:?}");
        }
    }
    Ok(())
}

fn connect(pair: &Pair, port: u16) -> Result<(TcpStream, TcpStream)> {
    let listener = pair.b.enter(|| Ok(TcpListener::bind((Pair::B4, port))?))?;
    let client = pair.a.enter(|| Ok(TcpStream::connect((Pair::B4, port))?))?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

/// A byte each way.
fn talk(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    client.write_all(b"x")?;
    server.read_exact(&mut [0])?;
    server.write_all(b"y")?;
    client.read_exact(&mut [0])?;
    Ok(())
}

/// AWS's example: a connection over several windows, and one within a window; and one that is refused by the host.
#[test]
fn tcp_flags_by_window() -> Result<()> {
    let pair = Pair::new()?;
    let directory = TempDir::new()?;
    let header = words("srcport dstport tcp-flags start end action log-status");
    let agent = Agent::start(&pair.a, &configuration(&directory, "", r#"["a0"]"#, &header, "")?)?;
    await_window()?;
    let (mut client, mut server) = connect(&pair, 5001)?;
    talk(&mut client, &mut server)?;
    await_window()?;
    talk(&mut client, &mut server)?;
    await_window()?;
    drop(client);
    server.read_to_end(&mut Vec::new())?;
    drop(server);
    await_window()?;
    let (mut client, mut server) = connect(&pair, 5002)?;
    talk(&mut client, &mut server)?;
    drop(client);
    server.read_to_end(&mut Vec::new())?;
    drop(server);
    let refused = pair.a.enter(|| Ok(TcpStream::connect((Pair::B4, 5003)).is_err()))?;
    ensure!(refused, "somebody listens on port 5003");
    await_window()?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let rows = rows(&header, &stopped.stdout)?;
    for (name, port, want) in [
        ("dstport", "5001", &["2", "0", "1"][..]),
        ("srcport", "5001", &["18", "0", "1"]),
        ("dstport", "5002", &["3"]),
        ("srcport", "5002", &["19"]),
        ("dstport", "5003", &["2"]),
        ("srcport", "5003", &["4"]),
    ] {
        let mut of_port: Vec<&Row> = rows.iter().filter(|row| row[name] == port).collect();
        of_port.sort_by_key(|row| row["start"].clone());
        let flags: Vec<&str> = of_port.iter().map(|row| row["tcp-flags"].as_str()).collect();
        ensure!(flags == want, "{name} {port}: {flags:?} of {rows:?}");
    }
    Ok(())
}

/// AWS's example of a NAT gateway, by a host that translates: what it forwards shows its own address where AWS does.
#[test]
fn a_nat_gateway_with_rewriting() -> Result<()> {
    let net = Container::new()?;
    let directory = TempDir::new()?;
    let header = words("x-interface-name flow-direction srcaddr dstaddr pkt-srcaddr pkt-dstaddr packets log-status");
    let log = r#"address-rewriting = "aws""#;
    let agent = Agent::start(net.host(), &configuration(&directory, "", r#"["br0", "b0"]"#, &header, log)?)?;
    await_window()?;
    traffic::ping(&net.inside, Pair::A4, 3)?;
    traffic::ping(&net.pair.a, Pair::B6, 2)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let rows = rows(&header, &stopped.stdout)?;
    for row in rows.iter().filter(|row| row["log-status"] == "OK").filter(is_not_the_kernels) {
        let names = ["x-interface-name", "flow-direction", "srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr"];
        let key = names.map(|name| row[name].as_str()).join(" ");
        *sums.entry(key).or_default() += row["packets"].parse::<u64>().context("packets")?;
    }
    let (inside, bridge, outside, host) = (Container::INSIDE, "10.88.0.1", Pair::A4, Pair::B4);
    let want = BTreeMap::from([
        (format!("br0 ingress {inside} {bridge} {inside} {outside}"), 3),
        (format!("b0 egress {host} {outside} {host} {outside}"), 3),
        (format!("b0 ingress {outside} {host} {outside} {host}"), 3),
        (format!("br0 egress {bridge} {inside} {outside} {inside}"), 3),
        // IPv6 is never rewritten.
        ("b0 ingress fd77::1 fd77::2 fd77::1 fd77::2".to_owned(), 2),
        ("b0 egress fd77::2 fd77::1 fd77::2 fd77::1".to_owned(), 2),
    ]);
    ensure!(sums == want, "{sums:?}");
    Ok(())
}

/// The kernel's word for it is ours; AWS's field has none for a packet filter.
#[test]
fn what_is_refused_has_a_reason() -> Result<()> {
    let pair = Pair::new()?;
    let directory = TempDir::new()?;
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &[("in", "udp dport 7001", "drop")])?;
    let header = words("dstport packets action reject-reason x-drop-reason flow-direction");
    let agent = Agent::start(&pair.b, &configuration(&directory, "", r#"["b0"]"#, &header, "")?)?;
    await_window()?;
    policy::datagrams(&pair.a, Pair::B4, 7001, 172, 5)?;
    firewall.wait_matched("in", 5)?;
    let stopped = agent.stop()?;
    let refused: Vec<_> = stopped.stdout.iter().filter(|line| line.starts_with("7001 ")).collect();
    ensure!(refused == ["7001 5 REJECT - NETFILTER_DROP ingress"], "{:?}", stopped.stdout);
    Ok(())
}

#[test]
fn a_format_that_aws_would_refuse_is_refused_where_it_is_wrong() -> Result<()> {
    let pair = Pair::new()?;
    for (format, said) in [
        ("${version} ", "has an invalid format at character 12: a ${field} is missing"),
        ("${version} ${version}", "has an invalid format at character 12: ${version} is there twice"),
        ("${version} ${pakets}", "at character 12: ${pakets} is not a field; did you mean ${packets}?"),
        ("${tgw-id}", "at character 1: ${tgw-id} is a field of transit gateway flow logs"),
    ] {
        let refusal = agent::refusal(&pair.a, &[], &agent::binary()?, &["run", "--log-format", format])?;
        let line = refusal.stderr.join("\n");
        ensure!(refusal.code == Some(2) && refusal.stderr.len() == 1 && line.contains(said), "{refusal:?}");
    }
    Ok(())
}
