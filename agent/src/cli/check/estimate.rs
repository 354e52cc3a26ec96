//! What a flow log would write in a day, told from what the running agent saw so far.
//! Pure: its snapshot in, numbers out. Knows no prices.
//! Always: said as an estimate, with what it is made from; none where there is nothing to make it from.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::cli::text::{age, size};
use crate::flow_log::{FlowLog, TrafficType};
use crate::status::{self, Snapshot};

const DAY: u64 = 86_400;

/// Of one day.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Estimate {
    pub(super) records: u64,
    /// As sent; none: nothing of this kind was delivered yet.
    pub(super) bytes: Option<u64>,
    /// Not compressed.
    pub(super) text_bytes: Option<u64>,
    /// Objects or calls.
    pub(super) calls: Option<u64>,
    pub(super) basis: String,
}

fn a_day(count: u64, seconds: u64) -> u64 {
    let scaled = u128::from(count) * u128::from(DAY) / u128::from(seconds.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// `part` of each of `whole`, of as many as `count`.
fn share(part: u64, whole: u64, count: u64) -> Option<u64> {
    let scaled = (u128::from(part) * u128::from(count)).checked_div(u128::from(whole))?;
    u64::try_from(scaled).ok()
}

/// `captures`: names of the interfaces whose records it would have.
pub(super) fn estimate(log: &FlowLog, captures: &[String], snapshot: &Snapshot) -> Option<Estimate> {
    let running = snapshot.flow_logs.iter().find(|running| running.id == log.id);
    of_itself(running, snapshot).or_else(|| of_traffic(log, captures, snapshot))
}

/// From its own windows.
fn of_itself(running: Option<&status::FlowLog>, snapshot: &Snapshot) -> Option<Estimate> {
    let running = running.filter(|running| running.made.seconds > 0)?;
    let (made, delivered) = (running.made, running.delivery.delivered);
    let records = a_day(made.records, made.seconds);
    let basis = format!("{} records of its {} windows in {}", made.records, made.windows, age(made.seconds));
    Some(Estimate {
        records,
        bytes: share(delivered.bytes, delivered.records, records),
        text_bytes: share(delivered.text_bytes, delivered.records, records),
        calls: Some(a_day(delivered.calls, snapshot.uptime_seconds)).filter(|_| delivered.calls > 0),
        basis,
    })
}

/// From the flows of its interfaces, for one that does not run; and from how others of its kind deliver.
fn of_traffic(log: &FlowLog, captures: &[String], snapshot: &Snapshot) -> Option<Estimate> {
    let last = snapshot.sum_rule.last?;
    let seconds = u64::try_from(last.end + 1 - snapshot.started).ok().filter(|seconds| *seconds > 0)?;
    let mut flows = 0;
    let seen = snapshot.interfaces.iter().filter(|interface| captures.contains(&interface.name));
    for (_, side) in seen.flat_map(|interface| interface.sides()) {
        let (accepted, rejected) = (side.accepted.flows, side.rejected.flows);
        flows += match log.traffic_type {
            TrafficType::Accept => accepted,
            TrafficType::Reject => rejected,
            TrafficType::All => accepted + rejected,
        };
    }
    let records = a_day(flows, seconds);
    let of_kind = |running: &&status::FlowLog| running.destination_type == log.destination.kind();
    let like = snapshot.flow_logs.iter().find(|it| of_kind(it) && it.delivery.delivered.records > 0);
    let like = like.map(|running| running.delivery.delivered);
    let of = |part: fn(&crate::deliver::status::Delivered) -> u64| {
        like.as_ref().and_then(|delivered| share(part(delivered), delivered.records, records))
    };
    Some(Estimate {
        records,
        bytes: of(|delivered| delivered.bytes),
        text_bytes: of(|delivered| delivered.text_bytes),
        calls: None,
        basis: format!("{flows} flows of its interfaces in {}; a longer interval makes fewer", age(seconds)),
    })
}

impl Estimate {
    /// `calls`: what they are called.
    pub(super) fn text(&self, calls: &str) -> String {
        let mut text = format!("about {} records", self.records);
        match (self.bytes, self.text_bytes) {
            (Some(bytes), Some(of_text)) if bytes != of_text => {
                text += &format!(", {} ({} as text)", size(bytes), size(of_text));
            }
            (Some(bytes), _) => text += &format!(", {}", size(bytes)),
            _ => {}
        }
        if let Some(count) = self.calls {
            text += &format!(", {count} {calls}");
        }
        format!("{text} a day, if all days are like {}", self.basis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Surroundings};
    use crate::deliver::status::Delivered;
    use crate::status::{Made, Window, example};

    fn log(toml: &str) -> FlowLog {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.toml");
        std::fs::write(&file, format!("[[flow-log]]\n{toml}")).unwrap();
        let config = config::read(&file).and_then(|tables| tables.build(&Surroundings::default())).unwrap();
        FlowLog::clone(&config.logs[0])
    }

    fn snapshot(id: &str) -> Snapshot {
        let mut it = example::snapshot();
        let running = &mut it.flow_logs[0];
        running.id = id.to_owned();
        running.made = Made { windows: 60, records: 600, seconds: 3600 };
        running.delivery.delivered =
            Delivered { segments: 1, records: 500, calls: 12, bytes: 5_000, text_bytes: 50_000 };
        (it.uptime_seconds, it.started) = (3650, 1000);
        it.sum_rule.last = Some(Window { start: 4540, end: 4599, ..it.sum_rule.last.unwrap() });
        it
    }

    #[test]
    fn of_one_that_runs() {
        let log =
            log("log-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs\"\nregion = \"eu-west-1\"\n");
        let got = estimate(&log, &[], &snapshot(&log.id)).unwrap();
        let want = "about 14400 records, 140 KiB (1406 KiB as text), 284 objects a day, if all days are like 600 records \
                    of its 60 windows in 60 min";
        assert_eq!(got.text("objects"), want);
        let mut young = snapshot(&log.id);
        young.flow_logs[0].made = Made::default();
        young.sum_rule.last = None;
        assert_eq!(estimate(&log, &[], &young), None);
    }

    #[test]
    fn of_one_that_does_not() {
        let eth0 = ["eth0".to_owned()];
        // Flows of the example: 1007 and 2007 accepted, 1008 and 2008 refused, in an hour.
        for (traffic_type, records) in [("ACCEPT", 3014 * 24), ("REJECT", 3016 * 24), ("ALL", 6030 * 24)] {
            let s3 = "log-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs\"\nregion = \"eu-west-1\"\n";
            let log = log(&format!("{s3}traffic-type = {traffic_type:?}\n"));
            let got = estimate(&log, &eth0, &snapshot("fl-other")).unwrap();
            assert_eq!((got.records, got.bytes, got.calls), (records, Some(records * 10), None), "{traffic_type}");
            assert_eq!(estimate(&log, &[], &snapshot("fl-other")).unwrap().records, 0);
        }
        let got = estimate(&log("log-destination-type = \"stdout\"\n"), &eth0, &snapshot("fl-other")).unwrap();
        let want = "about 144720 records a day, if all days are like 6030 flows of its interfaces in 60 min; a longer \
                    interval makes fewer";
        assert_eq!((got.bytes, got.text("calls").as_str()), (None, want));
    }
}
