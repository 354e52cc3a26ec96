//! Files and flags as people write them, and what is said of each mistake.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::flow_log::{Framing, Layout, Retention, Rewriting, TrafficType};
use crate::format::Format;
use crate::identity::imds::Interface;
use crate::identity::mac::Mac;

const STDOUT: &str = "[[flow-log]]\nlog-destination-type = \"stdout\"\n";

mod files;

fn surroundings() -> Surroundings {
    Surroundings { machine_id: "m".to_owned(), ..Surroundings::default() }
}

fn read_as_here(path: &Path) -> Result<Config, ConfigError> {
    read(path)?.build(&surroundings())
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    let path = Path::new("f.toml");
    let mut tables = Tables::empty(path);
    file::parse(&mut tables, path, text, true)?;
    tables.build(&surroundings())
}

/// One flow log with these lines.
fn log(lines: &str) -> Result<FlowLog, String> {
    let config = parse(&format!("[[flow-log]]\n{lines}\n")).map_err(|error| error.to_string())?;
    Ok(config.logs.into_iter().next().unwrap())
}

fn s3(lines: &str) -> Result<FlowLog, String> {
    log(&format!(
        "log-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs/a/b/\"\nregion = \"eu-west-1\"\n{lines}"
    ))
}

#[track_caller]
fn refused(lines: &str, error: &str) {
    assert_eq!(log(lines).map(|log| log.id), Err(error.to_owned()), "{lines}");
}

/// What a fuzzer found: names between quotes may hold newlines.
#[test]
fn a_refusal_is_one_line() {
    for (text, want) in [
        ("[[flow-log]]\n\"a\\nb\" = 1\n", "f.toml:2: key flow-log.a\\nb: is not known; did you mean tags?"),
        ("\"host\\r\" = 1\n", "f.toml:1: key host\\r: is not known; did you mean host?"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), want);
    }
}

#[test]
fn defaults() {
    let config = parse(STDOUT).unwrap();
    let expected = Agent {
        state_directory: "/var/lib/flowlogd".into(),
        bpf_directory: None,
        socket: None,
        verdicts: true,
        flow_table_slots: None,
        overflow_slots: None,
        shutdown: Duration::from_secs(30),
        metrics: Metrics::default(),
    };
    assert_eq!(config.agent, expected);
    assert_eq!(config.host.identity.account_id, "000000000000");
    assert_eq!(config.host.identity.region, "on-prem-1");
    let log = &config.logs[0];
    assert_eq!((log.traffic_type, log.interval, log.spool_bytes_max), (TrafficType::All, 600, 1 << 30));
    assert_eq!((&log.format, &log.destination), (&Format::default(), &Destination::Stdout));
    assert!(log.tags.is_empty() && log.selection.globs.is_empty() && config.warnings.is_empty());
}

#[test]
fn everything_said() {
    let text = r#"
        flow-log = [{ log-destination-type = "directory", log-destination = "/r", object-interval = 600,
            interfaces = ["veth*", "eth0", "eth0"], subnets = ["10.0.0.0/8"], traffic-type = "REJECT",
            max-aggregation-interval = 60, log-format = "${end} ${bytes}", tags = { a = "b c" } }]
        spool.max-bytes = "512MiB"
        exclusions.log-excluded = ["dhcp", "all"]
        [host]
        account-id = "123456789012"
        region = "eu-west-1"
        vpc-id = "vpc-12345678"
        subnet-id = "subnet-12345678"
        instance-id = "i-0123456789abcdef0"
        az-id = "euw1-az2"
        vpc-cidrs = ["10.0.0.0/16", "fd00::/56"]
        subnet-cidrs = ["10.0.1.0/24"]
        interface-ids = { eth0 = "eni-12345678" }
        [agent]
        state-directory = "/s"
        bpf-directory = "/b"
        flow-table-slots = 8
        overflow-slots = 1
        shutdown-seconds = 0
    "#;
    let config = parse(text).unwrap();
    let host = &config.host;
    assert_eq!((host.identity.account_id.as_str(), host.identity.region.as_str()), ("123456789012", "eu-west-1"));
    assert_eq!((host.vpc_id.as_deref(), host.az_id.as_deref()), (Some("vpc-12345678"), Some("euw1-az2")));
    assert_eq!((host.vpc_cidrs.len(), host.subnet_cidrs.len()), (2, 1));
    assert_eq!(host.interface_id_of("eth0", None), "eni-12345678");
    assert_eq!(host.interface_id_of("eth1", None), crate::identity::interface_id("m", "eth1"));
    assert_eq!(config.agent.state_directory, PathBuf::from("/s"));
    assert_eq!((config.agent.flow_table_slots, config.agent.shutdown), (Some(8), Duration::ZERO));
    let log = &config.logs[0];
    assert_eq!(log.selection.globs, ["eth0", "veth*"]);
    assert_eq!((log.traffic_type, log.interval, log.spool_bytes_max), (TrafficType::Reject, 60, 512 << 20));
    assert_eq!((log.format.header().as_str(), log.tags["a"].as_str()), ("end bytes", "b c"));
    let layout = Layout { object_interval: 600, ..Layout::default() };
    assert_eq!(log.destination, Destination::Directory { root: "/r".into(), layout, retention: Retention::default() });
}

#[test]
fn a_host_without_an_id_is_warned_of() {
    for (machine_id, warnings) in [("m", 0), ("", 1), ("uninitialized", 1)] {
        let surroundings = Surroundings { machine_id: machine_id.to_owned(), ..surroundings() };
        let (path, text) = (Path::new("f.toml"), "[[flow-log]]\nlog-destination-type = \"stdout\"");
        let mut tables = Tables::empty(path);
        file::parse(&mut tables, path, text, true).unwrap();
        assert_eq!(tables.build(&surroundings).unwrap().warnings.len(), warnings, "{machine_id:?}");
    }
}

/// Another one is the same flow log: it must know what is there as its own.
#[test]
fn a_directory_is_kept_as_long_as_is_said() {
    let directory =
        |more: &str| log(&format!("log-destination-type = \"directory\"\nlog-destination = \"/r\"\n{more}"));
    let kept = directory("retention-days = 14\nretention-bytes = \"1GiB\"").unwrap();
    let Destination::Directory { retention, .. } = &kept.destination else { panic!() };
    assert_eq!(*retention, Retention { days: Some(14), bytes: Some(1 << 30) });
    assert_eq!(kept.id, directory("").unwrap().id);
    for (key, why) in [("retention-days = 0", "allowed: 1 to 36500"), ("retention-bytes = 5", "at least 1048576")] {
        let error = directory(key).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn destinations() {
    let made = s3("destination-options.hive-compatible-partitions = true\nkms-key = \"arn:aws:kms:eu-west-1:1:key/k\"");
    let Destination::S3(s3) = made.unwrap().destination else { panic!() };
    assert_eq!((s3.bucket.as_str(), s3.folder.as_str(), s3.endpoint.region.as_str()), ("logs", "a/b", "eu-west-1"));
    assert_eq!((s3.layout.object_interval, s3.layout.hive_compatible_partitions), (300, true));
    assert_eq!(s3.kms_key.as_deref(), Some("arn:aws:kms:eu-west-1:1:key/k"));

    for group in [
        "log-destination = \"arn:aws:logs:eu-west-1:123456789012:log-group:g\"",
        "log-destination = \"arn:aws:logs:eu-west-1:123456789012:log-group:g:*\"\nlog-group-name = \"g\"",
        "log-group-name = \"g\"\nregion = \"eu-west-1\"",
    ] {
        let made = log(&format!("log-destination-type = \"cloud-watch-logs\"\nretention-days = 30\n{group}"));
        let Destination::CloudWatchLogs(logs) = made.unwrap().destination else { panic!() };
        assert_eq!((logs.group.as_str(), logs.retention_days), ("g", Some(30)));
        assert_eq!(logs.endpoint.region, "eu-west-1");
    }

    let stream = "log-destination = \"arn:aws:firehose:eu-west-1:123456789012:deliverystream/s\"\nframing = \"lines\"";
    let made = log(&format!("log-destination-type = \"kinesis-data-firehose\"\n{stream}"));
    let Destination::Firehose(firehose) = made.unwrap().destination else { panic!() };
    assert_eq!((firehose.stream.as_str(), firehose.framing), ("s", Framing::Lines));
}

/// What records say of the host beside its ids, and where that is said wrong.
#[test]
fn what_fields_of_later_versions_hold() {
    let log = "[[flow-log]]\nlog-destination-type = \"stdout\"\naddress-rewriting = \"aws\"\n\
               tag-field-specifications = { instance = [\"role\"], network-interface = [\"a\", \"b\"] }\n";
    let host = "[host]\nsublocation-type = \"outpost\"\nsublocation-id = \"op-1\"\ntraffic-path = 8\n\
                ip-ranges = \"/r.json\"\nlabels = { role = \"web\" }\ninterface-labels = { eth0 = { a = \"x y\" } }\n";
    let config = parse(&format!("{host}{log}")).unwrap();
    assert_eq!(config.host.sublocation, Some(("outpost".to_owned(), "op-1".to_owned())));
    assert_eq!((config.host.traffic_path, config.host.ip_ranges), (Some(8), Some("/r.json".into())));
    assert_eq!(
        (config.host.labels["role"].as_str(), config.host.interface_labels["eth0"]["a"].as_str()),
        ("web", "x y")
    );
    let fields = &config.logs[0].fields;
    assert_eq!((fields.rewriting, fields.instance_tags.as_slice()), (Rewriting::Aws, &["role".to_owned()][..]));
    assert_eq!(fields.interface_tags, ["a", "b"]);
    let described = serde_json::to_value(describe::Description::of(&config.logs[0], &Host::default())).unwrap();
    let tags = serde_json::json!([
        { "ResourceType": "instance", "TagKeys": ["role"] },
        { "ResourceType": "network-interface", "TagKeys": ["a", "b"] },
    ]);
    assert_eq!((&described["TagFieldSpecifications"], &described["AddressRewriting"]), (&tags, &"aws".into()));
    for (line, error) in [
        ("traffic-path = 9", "traffic-path: 9 is not allowed; allowed: 1 to 8"),
        ("sublocation-type = \"outpost\"", "sublocation-id: is missing beside sublocation-type"),
        ("sublocation-id = \"o\"", "sublocation-type: is missing beside sublocation-id"),
        ("ip-ranges = \"r.json\"", "ip-ranges: r.json is not an absolute path"),
        ("labels = { a = 1 }", "labels: must be a table of strings, such as { name = \"value\" }"),
        (
            "interface-labels = { eth0 = \"a\" }",
            "interface-labels: must be a table of tables, such as { eth0 = { name = \"value\" } }",
        ),
    ] {
        let said = parse(&format!("[host]\n{line}\n[[flow-log]]\nlog-destination-type = \"stdout\"")).unwrap_err();
        assert!(said.to_string().ends_with(error), "{said}");
    }
    for (line, error) in [
        ("tag-field-specifications.instance = []", "must be one or two keys of 1 to 128 characters"),
        ("tag-field-specifications.instance = [\"a\", \"b\", \"c\"]", "must be one or two keys of 1 to 128 characters"),
        ("address-rewriting = \"yes\"", "\"yes\" is not allowed; allowed: none, aws"),
    ] {
        let said = parse(&format!("[[flow-log]]\nlog-destination-type = \"stdout\"\n{line}")).unwrap_err();
        assert!(said.to_string().ends_with(error), "{said}");
    }
}

/// AWS's words where AWS has any.
#[test]
fn mistakes_of_a_flow_log() {
    let stdout = |line: &str, error: &str| {
        refused(&format!("log-destination-type = \"stdout\"\n{line}"), &format!("f.toml:3: key flow-log.{error}"));
    };
    stdout("traffic-type = \"all\"", "traffic-type: \"all\" is not allowed; allowed: ALL, ACCEPT, REJECT");
    stdout("traffic-type = true", "traffic-type: must be a string");
    stdout("trafic-type = \"ALL\"", "trafic-type: is not known; did you mean traffic-type?");
    stdout(
        "max-aggregation-interval = 900",
        "max-aggregation-interval: Invalid Flow Log Max Aggregation Interval: 900 is not allowed; allowed: 1 to 600 (AWS \
         knows 60 and 600)",
    );
    stdout(
        "log-format = \"${end} \"",
        "log-format: has an invalid format at character 8: a ${field} is missing; between two fields is one space, \
             and none at the ends",
    );
    stdout(
        "interfaces = []",
        "interfaces: must not be empty; without the key, every interface with an address is meant",
    );
    stdout("interfaces = \"eth0\"", "interfaces: must be a list of strings");
    stdout("subnets = [\"10.0.0.1\"]", "subnets: \"10.0.0.1\" is not a network such as 10.0.0.0/8");
    stdout("tags = { \"aws:x\" = \"\" }", "tags: tag \"aws:x\" must not begin with aws:, which is reserved");
    stdout("tags = { a = 1 }", "tags: must be a table of strings, such as { name = \"value\" }");
    stdout("destination-options = 1", "destination-options: must be a table");
    stdout(
        "log-destination = \"/x\"",
        "log-destination: is not for log-destination-type stdout; it is for s3, cloud-watch-logs, kinesis-data-firehose, \
         directory",
    );
    stdout(
        "log-group-name = \"g\"",
        "log-group-name: LogDestination type must be cloud-watch-logs if LogGroupName is provided.",
    );
    stdout(
        "destination-options.file-formt = 1",
        "destination-options.file-formt: is not known; did you mean destination-options.file-format?",
    );
    refused(
        "traffic-type = \"ALL\"",
        "f.toml:1: key flow-log.log-destination-type: is missing, and has no default here (AWS's is cloud-watch-logs); \
         allowed: s3, cloud-watch-logs, kinesis-data-firehose, directory, stdout",
    );
    refused(
        "log-destination-type = \"cloud-watch-logs\"",
        "f.toml:1: key flow-log.log-destination: LogDestination can't be empty if LogGroupName is not provided. Give \
         log-group-name",
    );
    refused(
        "log-destination-type = \"directory\"\nlog-destination = \"r\"",
        "f.toml:3: key flow-log.log-destination: r is not an absolute path",
    );
    refused(
        "log-destination-type = \"directory\"\nlog-destination = \"/r/../s\"",
        "f.toml:3: key flow-log.log-destination: /r/../s has `..` in it; say where it leads",
    );
}

#[test]
fn mistakes_of_an_s3_destination() {
    let wrong = |line: &str, error: &str| {
        let error = format!("f.toml:5: key flow-log.{error}");
        assert_eq!(s3(line).map(|log| log.id), Err(error), "{line}");
    };
    wrong(
        "destination-options = { file-format = \"orc\" }",
        "destination-options.file-format: \"orc\" is not allowed; allowed: plain-text, parquet",
    );
    // Also what would span two hours.
    for interval in [-1, 60, 1500, 7200] {
        let allowed = "0, 300, 600, 900, 1200, 1800, 3600 (0: an object for each window)";
        wrong(
            &format!("object-interval = {interval}"),
            &format!("object-interval: {interval} is not allowed; allowed: {allowed}"),
        );
    }
    wrong("framing = \"json\"", "framing: is not for log-destination-type s3; it is for kinesis-data-firehose");
    wrong(
        "kms-key = \"1234\"",
        "kms-key: \"1234\" is not the ARN of a key, arn:aws:kms:region:account:key/id; LogDestination logs would be \
         undeliverable",
    );
    let tags: Vec<String> = (0..11).map(|n| format!("t{n} = \"\"")).collect();
    wrong(&format!("tags = {{ {} }}", tags.join(", ")), "tags: 11 tags are too many; allowed: 10");
    wrong(
        "endpoint-url = \"minio:secret@host\"",
        "endpoint-url: is not an address such as https://minio.example.net:9000, without a query",
    );
    refused(
        "log-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs/AWSLogs/\"",
        "f.toml:3: key flow-log.log-destination: the folder must not be AWSLogs, a reserved name: it is added below the \
         folder",
    );
    refused(
        "log-destination-type = \"s3\"\nlog-destination = \"s3://logs\"",
        "f.toml:3: key flow-log.log-destination: \"s3://logs\" is not a bucket's ARN, such as arn:aws:s3:::bucket or \
         arn:aws:s3:::bucket/folder/",
    );
}

#[test]
fn a_region_is_found_or_asked_for() {
    let lines = "log-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs\"\n";
    let region = |text: &str, surroundings: &Surroundings| {
        let mut tables = Tables::empty(Path::new("f"));
        file::parse(&mut tables, Path::new("f"), text, true).unwrap();
        let config = tables.build(surroundings).map_err(|error| error.to_string())?;
        Ok::<_, String>(endpoint_of(&config.logs[0].destination).unwrap().region.clone())
    };
    let log = format!("[[flow-log]]\n{lines}");
    let of_environment = Surroundings { region: Some("eu-west-2".to_owned()), ..surroundings() };
    assert_eq!(region(&log, &of_environment).as_deref(), Ok("eu-west-2"));
    let host = format!("host.region = \"eu-west-1\"\n{log}");
    assert_eq!(region(&host, &of_environment).as_deref(), Ok("eu-west-1"));
    assert_eq!(region(&format!("{host}region = \"x\""), &of_environment).as_deref(), Ok("x"));
    let own = format!("{log}endpoint-url = \"http://127.0.0.1:1\"");
    assert_eq!(region(&own, &surroundings()).as_deref(), Ok("us-east-1"));
    let missing = "f:1: key flow-log.region: is missing, and this host is in no region; give the destination's";
    assert_eq!(region(&log, &surroundings()), Err(missing.to_owned()));
    refused(
        "log-destination-type = \"cloud-watch-logs\"\nlog-destination = \"arn:aws:logs:eu-west-1:1:log-group:g\"\nregion = \"x\"",
        "f.toml:4: key flow-log.region: \"x\" is not that of log-destination, \"eu-west-1\"",
    );
}

#[test]
fn mistakes_of_other_tables() {
    for (text, error) in [
        ("", "f.toml: no flow log is configured; add a [[flow-log]] table"),
        ("[host]\naccount-id = 1", "f.toml:2: key host.account-id: must be a string"),
        (
            "[host]\naccount-id = \"1\"",
            "f.toml:2: key host.account-id: account id \"1\" is not 12 digits, such as 123456789012",
        ),
        ("[host]\nvpc-id = \"x\"", "f.toml:2: key host.vpc-id: \"x\" is not vpc- and 8 or 17 hex digits"),
        ("[host]\naz-id = \"x\"", "f.toml:2: key host.az-id: \"x\" is not the id of a zone, such as use1-az1"),
        (
            "[host]\ninterface-ids = { eth0 = \"x\" }",
            "f.toml:2: key host.interface-ids: eth0 = \"x\" is not eni- and 8 or 17 hex digits",
        ),
        ("[host]\nmax-bytes = 1", "f.toml:2: key host.max-bytes: is not known here; it belongs in [spool]"),
        ("account-id = \"1\"", "f.toml:1: key account-id: is not known here; it belongs in [host]"),
        ("[hosts]", "f.toml:1: key hosts: is not known; did you mean host?"),
        ("host = 1", "f.toml:1: key host: must be a table, [host]"),
        ("[flow-log]", "f.toml:1: key flow-log: must be written [[flow-log]], in double brackets"),
        (
            "[spool]\nmax-bytes = \"1GB\"",
            "f.toml:2: key spool.max-bytes: must be a number of bytes such as 1073741824 or \"512MiB\", at least 65536",
        ),
        (
            "[agent]\nflow-table-slots = 4",
            "f.toml:2: key agent.flow-table-slots: 4 is not allowed; allowed: 8 to 4194304",
        ),
        ("[agent]\nstate-directory = \"s\"", "f.toml:2: key agent.state-directory: s is not an absolute path"),
        ("[host]\n\nregion = ", "f.toml:3: is not valid TOML: string values must be quoted, expected literal string"),
    ] {
        assert_eq!(parse(text).map(|_| ()).unwrap_err().to_string(), error, "{text}");
    }
    let error = parse(&format!("[exclusions]\nlog-excluded = [\"arp\"]\n{STDOUT}")).unwrap_err().to_string();
    assert!(
        error.starts_with("f.toml:2: key exclusions.log-excluded: \"arp\" is not excluded traffic; known"),
        "{error}"
    );
    let reject = format!("{STDOUT}traffic-type = \"REJECT\"\n[agent]\nno-verdicts = true");
    let error = parse(&reject).unwrap_err().to_string();
    assert!(error.starts_with("f.toml:3: key flow-log.traffic-type: REJECT needs the kernel's verdicts"), "{error}");
}

#[test]
fn the_same_twice_is_refused_as_aws_does() {
    let directory = |path: &str, more: &str| {
        format!("[[flow-log]]\nlog-destination-type = \"directory\"\nlog-destination = \"{path}\"\n{more}\n")
    };
    let twice = directory("/a", "interfaces = [\"x\", \"y\"]") + &directory("/a", "interfaces = [\"y\", \"x\"]");
    assert_eq!(
        parse(&twice).unwrap_err().to_string(),
        "f.toml:5: key flow-log: FlowLogAlreadyExists: There is an existing Flow Log with the same configuration and log \
         destination: the one at f.toml:1: key flow-log; change interfaces, subnets, traffic-type or the destination"
    );
    let others = directory("/a", "interfaces = [\"x\"]") + &directory("/a", "") + &directory("/b", "");
    assert_eq!(parse(&others).unwrap().logs.len(), 3);
}

#[test]
fn at_most_as_many_as_aws_has() {
    let logs = |count: usize| -> String {
        let log = |n| format!("[[flow-log]]\nlog-destination-type = \"stdout\"\ninterfaces = [\"i{n}\"]\n");
        (0..count).map(log).collect()
    };
    assert_eq!(parse(&logs(250)).unwrap().logs.len(), 250);
    let error = parse(&logs(251)).unwrap_err().to_string();
    assert_eq!(error, "f.toml:751: key flow-log: FlowLogsLimitExceeded: 251 flow logs are too many; allowed: 250");
}

#[test]
fn an_id_follows_every_setting_but_the_spool() {
    let base = "[host]\naccount-id = \"123456789012\"\n[[flow-log]]\nlog-destination-type = \"s3\"\n\
                log-destination = \"arn:aws:s3:::logs\"\nregion = \"eu-west-1\"\n";
    let id = |text: &str| parse(text).unwrap().logs[0].id.clone();
    // A new version of the program must not give it another.
    assert_eq!(id(base), "fl-c05b813e8c601b472");
    assert_eq!(id(&format!("{base}address-rewriting = \"none\"")), id(base));
    assert_eq!(id(&format!("{base}[spool]\nmax-bytes = 65536")), id(base));
    assert_eq!(id(&format!("{base}interfaces = [\"a\", \"b\"]")), id(&format!("{base}interfaces = [\"b\", \"a\"]")));
    let with_password = |word: &str| id(&format!("{base}endpoint-url = \"http://u:{word}@h\""));
    assert_eq!(with_password("a"), with_password("b"));
    let mut ids = vec![id(base), id(&base.replace("789012", "789013")), id(&base.replace(":::logs", ":::logs/x"))];
    for line in [
        "traffic-type = \"REJECT\"",
        "max-aggregation-interval = 60",
        "log-format = \"${end}\"",
        "interfaces = [\"a\"]",
        "subnets = [\"10.0.0.0/8\"]",
        "tags = { a = \"b\" }",
        "destination-options.per-hour-partition = true",
        "destination-options.hive-compatible-partitions = true",
        "object-interval = 600",
        "kms-key = \"arn:aws:kms:eu-west-1:1:key/k\"",
        "bucket-owner-full-control = true",
        "endpoint-url = \"http://h\"",
        "path-style = true",
        "profile = \"p\"",
        "address-rewriting = \"aws\"",
        "tag-field-specifications.instance = [\"a\"]",
        "tag-field-specifications.instance = [\"a\", \"b\"]",
        "tag-field-specifications.network-interface = [\"a\"]",
    ] {
        ids.push(id(&format!("{base}{line}")));
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert!(ids.iter().all(|id| id.len() == 20));
}

#[test]
fn ec2_fills_what_is_not_configured() {
    let interface = |id: &str, network: &str| Interface {
        interface_id: id.to_owned(),
        vpc_id: "vpc-00000001".to_owned(),
        subnet_id: "subnet-00000001".to_owned(),
        vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        subnet_cidrs: vec![network.parse().unwrap()],
    };
    let imds = Imds {
        account_id: "123456789012".to_owned(),
        region: "eu-west-1".to_owned(),
        az_id: Some("euw1-az2".to_owned()),
        instance_id: "i-00000001".to_owned(),
        primary: Some(Mac([2; 6])),
        interfaces: [
            (Mac([1; 6]), interface("eni-00000001", "10.0.1.0/24")),
            (Mac([2; 6]), interface("eni-00000002", "10.0.2.0/24")),
        ]
        .into(),
    };
    let metadata = Metadata::Known { imds, is_fresh: true };
    let surroundings = Surroundings { metadata, ..surroundings() };
    let host = |text: &str| {
        let mut tables = Tables::empty(Path::new("f"));
        file::parse(&mut tables, Path::new("f"), text, true).unwrap();
        tables.build(&surroundings).unwrap().host
    };
    let found = host(STDOUT);
    assert_eq!((found.identity.account_id.as_str(), found.identity.region.as_str()), ("123456789012", "eu-west-1"));
    assert_eq!((found.vpc_id.as_deref(), found.instance_id.as_deref()), (Some("vpc-00000001"), Some("i-00000001")));
    assert_eq!((found.vpc_cidrs.len(), found.subnet_cidrs.len()), (1, 2));
    assert_eq!(found.interface_id_of("eth0", Some(Mac([1; 6]))), "eni-00000001");
    assert_eq!(found.interface_id_of("eth0", Some(Mac([3; 6]))), crate::identity::interface_id("m", "eth0"));
    let said = "[host]\nregion = \"eu-west-2\"\nvpc-cidrs = []\nvpc-id = \"vpc-00000009\"\n\
                interface-ids = { eth0 = \"eni-00000009\" }\n";
    let mixed = host(&format!("{said}{STDOUT}"));
    assert_eq!((mixed.identity.account_id.as_str(), mixed.identity.region.as_str()), ("123456789012", "eu-west-2"));
    assert_eq!((mixed.vpc_id.as_deref(), mixed.vpc_cidrs.len()), (Some("vpc-00000009"), 0));
    assert_eq!(mixed.interface_id_of("eth0", Some(Mac([1; 6]))), "eni-00000009");
}

#[test]
fn flags_are_named_by_their_mistakes() {
    let mut tables = Tables::of_flags();
    tables.set("log-destination-type", "--log-destination-type", "directory");
    tables.set("host.account-id", "--account-id", "123456789012");
    let error = tables.build(&surroundings()).unwrap_err().to_string();
    assert!(error.starts_with("'--log-destination': LogDestination can't be empty"), "{error}");
    tables.set("log-destination", "--log-destination", "records");
    let config = tables.build(&surroundings()).unwrap();
    assert_eq!(config.host.identity.account_id, "123456789012");
    let Destination::Directory { root, .. } = &config.logs[0].destination else { panic!() };
    assert_eq!(root, &std::env::current_dir().unwrap().join("records"));
    tables.set("interfaces", "--interface", vec!["a b"]);
    let error = tables.build(&surroundings()).unwrap_err().to_string();
    assert!(error.starts_with("'--interface': must be names or globs"), "{error}");
}
