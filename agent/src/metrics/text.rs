//! Prometheus' text format (version 0.0.4), which OpenMetrics readers, node_exporter's textfile collector and promtool
//! take alike; and the table for people.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::{METRICS, Metric, PREFIX};
use crate::status::Snapshot;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) fn text(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for metric in METRICS {
        write(&mut text, metric, snapshot);
    }
    text
}

/// Nothing, if there are no samples.
fn write(text: &mut String, metric: &Metric, snapshot: &Snapshot) {
    let Metric { name, kind, unit, labels, help, samples } = metric;
    let samples = samples(snapshot);
    if samples.is_empty() {
        return;
    }
    let unit = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {PREFIX}{name} {help}{unit}\n# TYPE {PREFIX}{name} {}", kind.name());
    for sample in samples {
        let labels: Vec<String> =
            labels.iter().zip(&sample.labels).map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(text, "{PREFIX}{name}{labels} {}", sample.value);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `docs/metrics.md`.
#[cfg(test)]
pub(super) fn markdown() -> String {
    let mut text = String::from(HEAD);
    for Metric { name, kind, unit, labels, help, .. } in METRICS {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{PREFIX}{name}` | {} | {unit} | {} | {help} |", kind.name(), labels.join(", "));
    }
    text
}

#[cfg(test)]
const HEAD: &str = "\
# Metrics

Generated from the table in `agent/src/metrics/table.rs`; a test fails when the two differ, and says how to write this
file anew.

In Prometheus' text format, always on the agent's own socket:

    curl --unix-socket /run/flowlogd/flowlogd.sock http://flowlogd/metrics

and, when configured, on a loopback address or a Unix socket that serves nothing else, and in a file for node_exporter's
textfile collector, written every 15 seconds:

    [metrics]
    listen = \"127.0.0.1:9995\"
    textfile = \"/var/lib/prometheus/node-exporter/flowlogd.prom\"

Counters begin at 0 when the agent starts and include what no window holds yet, but for flows, which are counted when
their window ends. No label holds an address. [contrib/prometheus](../contrib/prometheus/flowlogd.rules.yml) has alert
rules, [contrib/grafana](../contrib/grafana/flowlogd.json) a dashboard.

| metric | type | unit | labels | |
|---|---|---|---|---|
";
