use super::line;
use super::*;
use crate::capture::flow::{Direction, Flow, FlowKey, Verdict};
use crate::encode;
use crate::record::{Host, Interface, Record, Status};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// AWS's default, all of version 2.
const DEFAULT: &str = "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} \
     ${protocol} ${packets} ${bytes} ${start} ${end} ${action} ${log-status}";

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn of_header(header: &str) -> Format {
    let tokens: Vec<String> = header.split(' ').map(|name| format!("${{{name}}}")).collect();
    Format::parse(&tokens.join(" ")).unwrap()
}

fn all() -> Format {
    of_header(&FIELDS.iter().map(|field| field.name).collect::<Vec<_>>().join(" "))
}

#[test]
fn parses_what_it_prints() {
    assert_eq!(Format::parse(DEFAULT), Ok(Format::default()));
    assert_eq!(Format::default().to_string(), DEFAULT);
    assert!(Format::default().is_default());
    let short = Format::parse("${end} ${bytes}").unwrap();
    assert_eq!((short.header().as_str(), short.is_default()), ("end bytes", false));
}

/// Counted in AWS's tables, versions 2 to 11.
#[test]
fn the_table_is_complete() {
    for (version, fields) in [(2, 14), (3, 7), (4, 4), (5, 4), (7, 10), (8, 1), (9, 1), (10, 1), (11, 12)] {
        assert_eq!(FIELDS.iter().filter(|field| field.version == version).count(), fields, "version {version}");
    }
    let names: BTreeSet<&str> = FIELDS.iter().map(|field| field.name).chain(TRANSIT_GATEWAY).collect();
    assert_eq!(names.len(), FIELDS.len() + 18, "a name is there twice");
    for field in FIELDS {
        let (name, help) = (field.name, field.help);
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'), "{name}");
        assert_eq!(name.starts_with("x-"), field.version == 0, "{name}");
        assert!(help.ends_with('.') && !help.contains(['|', '\n']) && !help.contains("  "), "{name}: {help}");
        assert!(!field.is_always_absent() || help.contains("`-`: "), "{name} does not say why it is never known");
    }
    let numbers =
        |kind| FIELDS.iter().filter(move |field| field.kind == kind).map(|field| field.name).collect::<Vec<_>>();
    let int32 = ["version", "srcport", "dstport", "protocol", "tcp-flags", "traffic-path", "encryption-status"];
    assert_eq!(numbers(Type::Int32), int32);
    assert_eq!(numbers(Type::Int64), ["packets", "bytes", "start", "end"]);
    assert_eq!(all().fields()[15].column(), "subnet_id");
}

#[test]
fn a_formats_version_is_its_highest() {
    for (header, version) in [
        ("version srcaddr", 2),
        ("srcaddr vpc-id version", 3),
        ("region", 4),
        ("tcp-flags traffic-path", 5),
        ("ecs-task-id traffic-path", 7),
        ("reject-reason", 8),
        ("resource-id", 9),
        ("encryption-status", 10),
        ("instance-tag version", 11),
        ("x-hostname version", 2),
    ] {
        let format = of_header(header);
        assert_eq!(format.version, version, "{header}");
        let (host, interface) = (Host::default(), Interface::default());
        let record =
            Record { host: &host, interface: &interface, flow: None, start: 0, end: 59, status: Status::NoData };
        let at = format.fields().iter().position(|field| field.name == "version");
        let said = at.and_then(|at| format.values(&record).nth(at));
        assert!(said.is_none_or(|said| said == Value::Number(version.into())), "{header}: {said:?}");
    }
}

/// Real and documented records of AWS, and those of other programs' tests, in 17 formats.
#[test]
fn samples_come_back_byte_for_byte() {
    let (mut records, mut formats, mut malformed) = (0, BTreeSet::new(), Vec::new());
    for entry in std::fs::read_dir(repository("tests/data/samples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.split_inclusive('\n');
        let header = lines.next().unwrap().trim_end();
        let format = of_header(header);
        assert_eq!(format.header(), header);
        for line in lines {
            let line = line.strip_suffix('\n').unwrap();
            match line::read(&format, line) {
                Ok(values) => {
                    let mut out = Vec::new();
                    encode::append_values(values.into_iter(), &mut out);
                    assert_eq!(String::from_utf8(out).unwrap(), format!("{line}\n"), "{name}");
                    records += 1;
                }
                Err(error) => malformed.push(format!("{name}: {error}")),
            }
        }
        formats.insert(format.to_string());
    }
    let double_space = "malformed-aws-docs-double-space.txt: value 22 (-) is one too many";
    assert_eq!(malformed, [double_space]);
    assert_eq!((records, formats.len()), (97, 17), "samples went missing");
}

#[test]
fn the_page_is_that_of_the_table() {
    const WRITE: &str = "FLOWLOGD_WRITE_DOCS";
    let (path, page) = (repository("docs/fields.md"), super::docs::markdown());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let is_same = std::fs::read_to_string(&path).is_ok_and(|found| found == page);
    assert!(
        is_same,
        "docs/fields.md is not that of the table: {WRITE}=1 cargo test -p flowlogd --lib the_page_is writes it"
    );
}

fn flow(direction: Direction, src: &str, dst: &str) -> Flow {
    let key = FlowKey {
        ifindex: 1,
        direction,
        verdict: Verdict::Accept,
        protocol: 6,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        src_port: 40_000,
        dst_port: 443,
    };
    Flow { key, packets: 3, bytes: 180, first: 61, last: 70, tcp_flags: 3, reason: 0 }
}

fn host() -> Host {
    Host {
        account_id: "123456789012".to_owned(),
        region: "eu-west-1".to_owned(),
        instance_id: Some("i-0123456789abcdef0".to_owned()),
        az_id: Some("euw1-az2".to_owned()),
        traffic_path: Some(8),
        hostname: Some("web1".to_owned()),
        tags: [Some("a%20b".to_owned()), None],
        ..Host::default()
    }
}

fn interface() -> Interface {
    Interface {
        id: "eni-1".to_owned(),
        name: "eth0".to_owned(),
        vpc_id: Some("vpc-1".to_owned()),
        subnet_id: Some("subnet-1".to_owned()),
        ..Interface::default()
    }
}

fn written(format: &Format, record: &Record) -> String {
    let mut out = Vec::new();
    encode::append(format, record, &mut out);
    String::from_utf8(out).unwrap().trim_end_matches('\n').to_owned()
}

/// NODATA and SKIPDATA keep what is known of interface and host, but for the instance, as AWS's own do.
#[test]
fn records_without_a_flow_keep_what_is_known() {
    let format = of_header(
        "version account-id interface-id vpc-id subnet-id instance-id region az-id type tcp-flags flow-direction \
         traffic-path pkt-srcaddr action reject-reason start end log-status instance-tag x-hostname",
    );
    let (host, interface) = (host(), interface());
    let flow = flow(Direction::Egress, "10.0.0.1", "10.0.0.2");
    let known = "11 123456789012 eni-1 vpc-1 subnet-1";
    for (status, flow, want) in [
        (Status::NoData, None, "- eu-west-1 euw1-az2 - - - - - - - 60 119 NODATA a%20b web1"),
        (Status::SkipData, None, "- eu-west-1 euw1-az2 - - - - - - - 60 119 SKIPDATA a%20b web1"),
        (
            Status::Ok,
            Some(&flow),
            "i-0123456789abcdef0 eu-west-1 euw1-az2 IPv4 3 egress 8 10.0.0.1 ACCEPT - 60 119 OK a%20b web1",
        ),
    ] {
        let record = Record { host: &host, interface: &interface, flow, start: 60, end: 119, status };
        assert_eq!(written(&format, &record), format!("{known} {want}"));
    }
}

/// semantics.md's table, and AWS's example of a NAT gateway.
#[test]
fn rewriting_is_of_the_interfaces_own_end() {
    use Direction::{Egress, Ingress};
    let format = of_header("srcaddr dstaddr pkt-srcaddr pkt-dstaddr traffic-path");
    let (host, mut interface) = (host(), interface());
    for (stands_for, direction, src, dst, want) in [
        (None, Ingress, "10.0.1.5", "203.0.113.5", "10.0.1.5 203.0.113.5 10.0.1.5 203.0.113.5 -"),
        (Some("10.0.0.220"), Ingress, "10.0.1.5", "203.0.113.5", "10.0.1.5 10.0.0.220 10.0.1.5 203.0.113.5 -"),
        (Some("10.0.0.220"), Egress, "10.0.0.220", "203.0.113.5", "10.0.0.220 203.0.113.5 10.0.0.220 203.0.113.5 8"),
        (Some("10.0.0.220"), Ingress, "203.0.113.5", "10.0.0.220", "203.0.113.5 10.0.0.220 203.0.113.5 10.0.0.220 -"),
        (Some("10.0.0.220"), Egress, "203.0.113.5", "10.0.1.5", "10.0.0.220 10.0.1.5 203.0.113.5 10.0.1.5 8"),
        (Some("10.0.0.220"), Ingress, "10.0.0.220", "10.0.0.221", "10.0.0.220 10.0.0.220 10.0.0.220 10.0.0.221 -"),
        (Some("10.0.0.220"), Egress, "2001:db8::1", "2001:db8::2", "2001:db8::1 2001:db8::2 2001:db8::1 2001:db8::2 8"),
    ] {
        interface.stands_for = stands_for.map(|address| address.parse().unwrap());
        let flow = flow(direction, src, dst);
        let record =
            Record { host: &host, interface: &interface, flow: Some(&flow), start: 61, end: 70, status: Status::Ok };
        assert_eq!(written(&format, &record), want);
        // The default format's own code does the same.
        let words = written(&Format::default(), &record);
        let words: Vec<&str> = words.split(' ').collect();
        assert_eq!(words[3..5].join(" "), want.split(' ').take(2).collect::<Vec<_>>().join(" "));
    }
}

fn an_address() -> impl Strategy<Value = std::net::IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(Into::into), any::<[u16; 8]>().prop_map(Into::into)]
}

prop_compose! {
    fn a_flow()(
        (src, dst) in (an_address(), an_address()),
        (src_port, dst_port, protocol, tcp_flags) in any::<(u16, u16, u8, u8)>(),
        (packets, bytes) in any::<(u64, u64)>(),
        (first, length) in (0..i64::from(u32::MAX), 0..600_i64),
        (is_ingress, is_accepted) in any::<(bool, bool)>(),
    ) -> Flow {
        let direction = if is_ingress { Direction::Ingress } else { Direction::Egress };
        let verdict = if is_accepted { Verdict::Accept } else { Verdict::Reject };
        let key = FlowKey { ifindex: 1, direction, verdict, protocol, src, dst, src_port, dst_port };
        Flow { key, packets, bytes, first, last: first + length, tcp_flags, reason: 0 }
    }
}

/// Some of all fields, in any order.
fn a_format() -> impl Strategy<Value = Format> {
    let names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
    let count = names.len();
    proptest::sample::subsequence(names, 1..=count).prop_shuffle().prop_map(|names| of_header(&names.join(" ")))
}

/// What people may write: tokens that are right, nearly right, and anything.
fn a_text() -> impl Strategy<Value = String> {
    let names: Vec<&str> = FIELDS.iter().map(|field| field.name).chain(TRANSIT_GATEWAY).collect();
    let token = prop_oneof![
        8 => proptest::sample::select(names).prop_map(|name| format!("${{{name}}}")),
        1 => "[${} a-z\u{e9}_-]{0,12}",
        1 => any::<String>(),
    ];
    (proptest::collection::vec(token, 0..6), proptest::sample::select(vec![" ", " ", " ", "", "  ", ",", "\t"]))
        .prop_map(|(tokens, between)| tokens.join(between))
}

proptest! {
    #[test]
    fn any_record_in_any_format_reads_back(format in a_format(), flow in proptest::option::of(a_flow()), primary in any::<[u8; 4]>(), rewrites in any::<bool>()) {
        let (host, mut interface) = (host(), interface());
        interface.stands_for = rewrites.then(|| primary.into());
        let (start, end) = flow.map_or((60, 119), |flow| (flow.first, flow.last));
        let status = if flow.is_some() { Status::Ok } else { Status::SkipData };
        let record = Record { host: &host, interface: &interface, flow: flow.as_ref(), start, end, status };
        let line = written(&format, &record);
        let values: Vec<Value> = format.values(&record).collect();
        prop_assert_eq!(line::read(&format, &line), Ok(values));
    }

    #[test]
    fn any_text_is_printed_back_or_refused_with_a_position(text in a_text()) {
        match Format::parse(&text) {
            Ok(format) => prop_assert_eq!(format.to_string(), text),
            Err(error) => {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.position), "{error}");
                let said = error.to_string();
                prop_assert!(said.starts_with("has an invalid format at character ") && !said.contains('\n'), "{said}");
                // Whatever stands before it is right.
                let before: String = text.chars().take(error.position - 1).collect();
                let whole = before.rfind(' ').map(|at| &before[..at]);
                prop_assert!(whole.is_none_or(|whole| Format::parse(whole).is_ok()), "{said}");
            }
        }
    }
}
