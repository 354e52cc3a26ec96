use super::text::markdown;
use super::*;
use crate::status::example;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn every_metric_has_samples_and_keeps_the_rules_of_names() {
    let snapshot = example::snapshot();
    let mut names = BTreeSet::new();
    for metric in METRICS {
        let name = metric.name;
        assert!(names.insert(name), "{name} twice");
        assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(!metric.help.contains('|') && metric.help.ends_with('.'), "{name}");
        let samples = (metric.samples)(&snapshot);
        assert!(!samples.is_empty(), "{name}");
        let mut series = BTreeSet::new();
        for sample in samples {
            assert_eq!(sample.labels.len(), metric.labels.len(), "{name}");
            assert!(series.insert(sample.labels), "{name}: two samples of the same labels");
        }
    }
}

#[test]
fn samples_are_what_the_snapshot_says() {
    let text = text(&example::snapshot());
    for line in [
        "flowlogd_build_info{version=\"1.2.3\"} 1",
        "flowlogd_verdicts_available 0",
        "flowlogd_interface_packets_total{interface=\"eth0\",direction=\"ingress\"} 1900",
        "flowlogd_interface_bytes_total{interface=\"eth0\",direction=\"egress\"} 290000",
        "flowlogd_hook_missing{interface=\"eth0\"} 1",
        "flowlogd_unparsable_packets_total{interface=\"eth0\",direction=\"egress\",cause=\"bad-header\"} 2003",
        "flowlogd_skipped_packets_total{interface=\"eth0\",direction=\"ingress\",cause=\"drops-full\"} 1006",
        "flowlogd_flow_packets_total{interface=\"eth0\",direction=\"ingress\",action=\"REJECT\"} 10080",
        "flowlogd_excluded_bytes_total{rule=\"dhcp\"} 1500",
        "flowlogd_conservation_error_packets -22",
        "flowlogd_lost_packets_total{cause=\"tables-full\"} 100",
        "flowlogd_drain_seconds_total 20.5",
        "flowlogd_delivery_failing{flow_log=\"fl-0123456789abcdef0\"} 1",
        "flowlogd_spool_limit_bytes{flow_log=\"fl-0123456789abcdef0\"} 54",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
    }
    // One series each: what has no value has none.
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(types, METRICS.len());
}

#[test]
fn labels_are_escaped_and_empty_families_left_out() {
    let mut snapshot = example::snapshot();
    snapshot.version = "a\"b\\c\nd".to_owned();
    snapshot.interfaces.clear();
    let text = text(&snapshot);
    assert!(text.contains(r#"flowlogd_build_info{version="a\"b\\c\nd"} 1"#), "{text}");
    assert!(!text.contains("interface_packets"), "{text}");
}

#[test]
fn the_page_is_that_of_the_table() {
    const WRITE: &str = "FLOWLOGD_WRITE_DOCS";
    let path = repository("docs/metrics.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, markdown()).unwrap();
    }
    let is_same = std::fs::read_to_string(&path).is_ok_and(|found| found == markdown());
    assert!(
        is_same,
        "docs/metrics.md is not that of the table: {WRITE}=1 cargo test -p flowlogd --lib the_page_is writes it"
    );
}

/// Every word that looks like one of our metrics is one.
#[test]
fn dashboards_and_rules_know_our_metrics() {
    let known: BTreeSet<String> = METRICS.iter().map(|metric| format!("{PREFIX}{}", metric.name)).collect();
    for path in [
        "contrib/grafana/flowlogd.json",
        "contrib/prometheus/flowlogd.rules.yml",
        "contrib/prometheus/flowlogd.test.yml",
    ] {
        let text = std::fs::read_to_string(repository(path)).unwrap();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words: BTreeSet<&str> = text.split(|c| !is_part(c)).filter(|word| word.starts_with(PREFIX)).collect();
        assert!(words.len() > 5, "{path}: {words:?}");
        for word in words {
            assert!(known.contains(word), "{path}: {word}");
        }
    }
}
