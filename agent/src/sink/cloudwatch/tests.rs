//! Against a stand-in of the service that is as strict as the service about batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::super::test_server::{self, Answer, Request};
use super::batch::tests::check_put_log_events;
use super::*;
use crate::format::Format;
use crate::select::Selection;
use crate::spool::Window;

#[derive(Default)]
struct Service {
    groups: BTreeMap<String, serde_json::Value>,
    retention: BTreeMap<String, i64>,
    streams: BTreeMap<String, Vec<(i64, String)>>,
    operations: Vec<String>,
    /// To be answered, by the number of the call of that operation, from 1.
    failures: BTreeSet<(&'static str, usize, &'static str)>,
    /// Times before this are too old.
    oldest: i64,
}

impl Service {
    fn answer(&mut self, request: &Request) -> Answer {
        let (operation, body) = (request.operation().to_owned(), request.json());
        self.operations.push(operation.clone());
        let count = self.operations.iter().filter(|known| **known == operation).count();
        let failure = self.failures.iter().find(|(name, number, _)| *name == operation && *number == count);
        if let Some((.., code)) = failure {
            return Answer::error(400, code);
        }
        let group = body["logGroupName"].as_str().unwrap().to_owned();
        let stream = body["logStreamName"].as_str().unwrap_or_default().to_owned();
        let has_group = self.groups.contains_key(&group);
        match operation.as_str() {
            "CreateLogGroup" if has_group => Answer::error(400, "ResourceAlreadyExistsException"),
            "CreateLogGroup" => {
                self.groups.insert(group, body["tags"].clone());
                Answer::ok("{}")
            }
            _ if !has_group => Answer::error(400, "ResourceNotFoundException"),
            "PutRetentionPolicy" => {
                self.retention.insert(group, body["retentionInDays"].as_i64().unwrap());
                Answer::ok("{}")
            }
            "CreateLogStream" if self.streams.contains_key(&stream) => {
                Answer::error(400, "ResourceAlreadyExistsException")
            }
            "CreateLogStream" => {
                self.streams.insert(stream, Vec::new());
                Answer::ok("{}")
            }
            "PutLogEvents" => match self.streams.get_mut(&stream) {
                Some(events) => put(&body, events, self.oldest),
                None => Answer::error(400, "ResourceNotFoundException"),
            },
            _ => panic!("{operation}"),
        }
    }
}

fn put(body: &serde_json::Value, stream: &mut Vec<(i64, String)>, oldest: i64) -> Answer {
    let event = |event: &serde_json::Value| {
        (event["timestamp"].as_i64().unwrap(), event["message"].as_str().unwrap().to_owned())
    };
    let events: Vec<(i64, String)> = body["logEvents"].as_array().unwrap().iter().map(event).collect();
    check_put_log_events(events.iter().map(|(time, message)| (*time, message.as_str()))).unwrap();
    let old = events.iter().take_while(|(time, _)| *time < oldest).count();
    stream.extend_from_slice(&events[old..]);
    match old {
        0 => Answer::ok("{}"),
        _ => Answer::ok(&json!({ "rejectedLogEventsInfo": { "tooOldLogEventEndIndex": old } }).to_string()),
    }
}

struct Scene {
    service: Arc<Mutex<Service>>,
    url: String,
    directory: tempfile::TempDir,
    spool: Spool,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn new() -> Self {
        let service = Arc::new(Mutex::new(Service::default()));
        let for_server = Arc::clone(&service);
        let url = test_server::start(move |request| for_server.lock().unwrap().answer(request));
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), u64::MAX).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { service, url, directory, spool, runtime }
    }

    fn sink(&self) -> CloudWatch {
        let settings = flow_log::CloudWatchLogs {
            group: "flows".to_owned(),
            retention_days: Some(30),
            endpoint: Endpoint::default(),
        };
        let log = FlowLog {
            id: "fl-1".to_owned(),
            selection: Selection::default(),
            traffic_type: TrafficType::Reject,
            interval: 60,
            format: Format::default(),
            destination: flow_log::Destination::Stdout,
            tags: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            fields: flow_log::Fields::default(),
            spool_bytes_max: u64::MAX,
        };
        let mut sink = CloudWatch::new(&log, &settings, self.directory.path());
        sink.connection = Connection::to(&self.url, false, make);
        sink
    }

    /// A segment, of blocks.
    fn append(&self, number: u64, blocks: &[(&str, String)]) {
        let mut writer = self.spool.begin(Window { start: 0, end: 59, number }).unwrap();
        for (key, text) in blocks {
            writer.block(key, text.lines().count() as u32, text.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
    }

    fn deliver(&self, sink: &mut CloudWatch) -> Result<Step, Outcome> {
        self.runtime.block_on(sink.deliver(&self.spool))
    }

    /// Until nothing waits. The codes of what failed on the way.
    fn deliver_all(&self, sink: &mut CloudWatch) -> Vec<String> {
        let mut codes = Vec::new();
        loop {
            match self.deliver(sink) {
                Ok(Step::Idle { .. }) => return codes,
                Ok(Step::Progress) => {}
                Err(Outcome::Retry(fault)) => codes.push(fault.code),
                Err(other) => panic!("{other:?}"),
            }
            assert!(codes.len() < 100);
        }
    }

    fn service(&self) -> std::sync::MutexGuard<'_, Service> {
        self.service.lock().unwrap()
    }
}

/// Lines as the spool has them, and as events.
fn lines(stream: &str, start: i64, count: usize, length: usize) -> (String, Vec<(i64, String)>) {
    let events: Vec<(i64, String)> = (0..count)
        .map(|at| {
            let line = format!("2 {stream} {at} {}", "x".repeat(length));
            ((start + at as i64 / 100) * 1000, line)
        })
        .collect();
    let text = events.iter().map(|(time, line)| format!("{} {line}\n", time / 1000)).collect();
    (text, events)
}

#[test]
fn makes_what_is_missing_and_puts_lines_in_order() {
    let scene = Scene::new();
    let (first, mut wanted) = lines("eni-1", 60, 3, 5);
    let (second, more) = lines("eni-1", 120, 2, 5);
    let (other, others) = lines("eni-2", 60, 1, 5);
    scene.append(1, &[("eni-1", first), ("eni-2", other)]);
    scene.append(2, &[("eni-1", second)]);
    let mut sink = scene.sink();
    assert_eq!(scene.deliver_all(&mut sink), [""; 0]);
    wanted.extend(more);
    let service = scene.service();
    assert_eq!(service.streams["eni-1-reject"], wanted);
    assert_eq!(service.streams["eni-2-reject"], others);
    assert_eq!(service.groups["flows"], json!({ "env": "prod" }));
    assert_eq!(service.retention["flows"], 30);
    let delivered = sink.delivered();
    assert_eq!((delivered.segments, delivered.records, delivered.calls), (2, 6, 3));
    assert!(scene.spool.segments().is_empty());
}

#[test]
fn a_group_that_is_there_is_left_as_it_is() {
    let scene = Scene::new();
    scene.service().groups.insert("flows".to_owned(), json!({ "theirs": "1" }));
    scene.append(1, &[("eni-1", lines("eni-1", 60, 1, 5).0)]);
    scene.deliver_all(&mut scene.sink());
    let service = scene.service();
    assert_eq!(service.operations, ["PutLogEvents", "CreateLogStream", "PutLogEvents"]);
    assert_eq!((service.groups["flows"].clone(), service.retention.len()), (json!({ "theirs": "1" }), 0));
}

#[test]
fn retention_is_set_later_if_it_could_not_be() {
    let scene = Scene::new();
    scene.service().failures.insert(("PutRetentionPolicy", 1, "ThrottlingException"));
    scene.append(1, &[("eni-1", lines("eni-1", 60, 1, 5).0)]);
    assert_eq!(scene.deliver_all(&mut scene.sink()), ["ThrottlingException"]);
    assert_eq!(scene.service().retention["flows"], 30);
}

/// Three streams, one with several batches; every call fails at some time.
#[test]
fn failures_repeat_nothing() {
    for (operation, number, code) in [
        ("PutLogEvents", 1, "ThrottlingException"),
        ("PutLogEvents", 5, "ServiceUnavailableException"),
        ("PutLogEvents", 7, "ExpiredTokenException"),
        ("CreateLogGroup", 1, "OperationAbortedException"),
        ("CreateLogStream", 2, "ThrottlingException"),
    ] {
        let scene = Scene::new();
        scene.service().failures.insert((operation, number, code));
        let (long, wanted) = lines("eni-1", 60, 25_000, 5);
        let (two, others) = lines("eni-2", 60, 10, 5);
        scene.append(1, &[("eni-1", long), ("eni-2", two.clone()), ("eni-3", two)]);
        let mut sink = scene.sink();
        let mut codes = Vec::new();
        loop {
            match scene.deliver(&mut sink) {
                Ok(Step::Idle { .. }) => break,
                Ok(Step::Progress) => {}
                Err(Outcome::Retry(fault)) => {
                    codes.push(fault.code);
                    // In place of the environment's credentials.
                    sink.connection = Connection::to(&scene.url, false, make);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(codes, [code]);
        let service = scene.service();
        assert_eq!(service.streams["eni-1-reject"], wanted, "{code}");
        assert_eq!(service.streams["eni-2-reject"], others, "{code}");
        assert_eq!(service.streams["eni-3-reject"], others, "{code}");
    }
}

/// After any step another agent goes on: nothing is lost and, as every step was noted, nothing is sent twice.
#[test]
fn a_restart_goes_on_where_it_was() {
    let scene = Scene::new();
    // Two groups of one segment.
    let (long, wanted) = lines("eni-1", 60, 25_000, 150);
    let at = long.match_indices('\n').nth(14_999).unwrap().0 + 1;
    let (two, others) = lines("eni-2", 60, 10, 5);
    scene.append(1, &[("eni-2", two), ("eni-1", long[..at].to_owned()), ("eni-1", long[at..].to_owned())]);
    let mut steps = 0;
    while scene.deliver(&mut scene.sink()).unwrap() == Step::Progress {
        steps += 1;
    }
    assert!(steps >= 4, "{steps}");
    let service = scene.service();
    assert!(service.streams["eni-1-reject"] == wanted);
    assert_eq!(service.streams["eni-2-reject"], others);
}

#[test]
fn what_is_too_old_is_kept() {
    let scene = Scene::new();
    scene.service().oldest = 60_000;
    scene.append(1, &[("eni-1", "1 a\n59 b\n60 c\nno time\n".to_owned())]);
    let mut sink = scene.sink();
    scene.deliver_all(&mut sink);
    assert_eq!(scene.service().streams["eni-1-reject"], [(60_000, "c".to_owned())]);
    let dead = std::fs::read_to_string(scene.directory.path().join("dead-letter/00000001.log")).unwrap();
    assert_eq!(dead, "malformed eni-1-reject no time\ntoo-old eni-1-reject a\ntoo-old eni-1-reject b\n");
    let delivered = sink.delivered();
    assert_eq!((delivered.records, delivered.dead_letters), (1, 3));
}

/// 24 h and more of it, in one segment.
#[test]
fn a_long_backlog_is_within_the_limits() {
    let scene = Scene::new();
    let text: String = (0..3_000i64).map(|at| format!("{} line {at}\n", at * 60)).collect();
    scene.append(1, &[("eni-1", text)]);
    scene.deliver_all(&mut scene.sink());
    let service = scene.service();
    let seen: Vec<i64> = service.streams["eni-1-reject"].iter().map(|(time, _)| *time).collect();
    assert_eq!(seen, (0..3_000i64).map(|at| at * 60_000).collect::<Vec<_>>());
}

#[test]
fn access_denied_is_refused() {
    let scene = Scene::new();
    scene.service().failures.insert(("PutLogEvents", 1, "AccessDeniedException"));
    scene.append(1, &[("eni-1", lines("eni-1", 60, 1, 5).0)]);
    let mut sink = scene.sink();
    let Err(Outcome::Refuse(fault)) = scene.deliver(&mut sink) else { panic!() };
    assert_eq!(fault.code, "AccessDeniedException");
    assert!(!sink.connection.is_open());
    assert_eq!(scene.spool.segments().len(), 1);
}
