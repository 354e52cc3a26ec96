//! Against a stand-in of the service.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::super::test_server::{self, Answer};
use super::*;
use crate::flow_log::Framing;
use crate::spool::Window;

/// Records by call, as they came, and in the order in which they were taken.
#[derive(Default)]
struct Service {
    calls: Vec<Vec<String>>,
    taken: Vec<String>,
    /// Not taken when it comes for the first time.
    fails: BTreeSet<String>,
}

impl Service {
    fn answer(&mut self, body: &Value) -> Answer {
        assert_eq!(body["DeliveryStreamName"], "stream");
        let decode = |record: &Value| base64(record["Data"].as_str().unwrap());
        let records: Vec<String> = body["Records"].as_array().unwrap().iter().map(decode).collect();
        let mut failed = 0;
        let mut entries = Vec::new();
        for record in &records {
            if self.fails.remove(record) {
                failed += 1;
                entries.push(json!({ "ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down." }));
            } else {
                self.taken.push(record.clone());
                entries.push(json!({ "RecordId": "1" }));
            }
        }
        self.calls.push(records);
        Answer::ok(&json!({ "FailedPutCount": failed, "RequestResponses": entries }).to_string())
    }
}

fn base64(text: &str) -> String {
    String::from_utf8(aws_smithy_types::base64::decode(text).unwrap()).unwrap()
}

fn scene(framing: Framing, text: &str, fails: &[&str]) -> (Arc<Mutex<Service>>, Spool, tempfile::TempDir, Firehose) {
    let fails = fails.iter().map(ToString::to_string).collect();
    let service = Arc::new(Mutex::new(Service { fails, ..Service::default() }));
    let for_server = Arc::clone(&service);
    let url = test_server::start(move |request| for_server.lock().unwrap().answer(&request.json()));
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path(), u64::MAX).unwrap();
    let mut writer = spool.begin(Window { start: 0, end: 59, number: 1 }).unwrap();
    writer.block("", text.lines().count() as u32, text.as_bytes()).unwrap();
    writer.finish().unwrap();
    let settings = flow_log::Firehose { stream: "stream".to_owned(), framing, endpoint: Endpoint::default() };
    let mut sink = Firehose::new(&settings, directory.path());
    sink.connection = Connection::to(&url, false, make);
    (service, spool, directory, sink)
}

fn deliver(sink: &mut Firehose, spool: &Spool) -> Result<Step, Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(sink.deliver(spool))
}

#[test]
fn only_what_was_not_taken_is_sent_again() {
    let record = |line: &str| format!(r#"{{"message":"{line}"}}"#);
    let (two, four) = (record("two"), record("four"));
    let text = "one\ntwo\nthree\nfour\nfive\n";
    let (service, spool, _directory, mut sink) = scene(Framing::Json, text, &[&two, &four]);
    let Err(Outcome::Retry(fault)) = deliver(&mut sink, &spool) else { panic!() };
    assert_eq!(
        (fault.code.as_str(), fault.message.as_str()),
        ("ServiceUnavailableException", "2 of 5 records were not taken")
    );
    assert_eq!(deliver(&mut sink, &spool), Ok(Step::Progress));
    assert_eq!(deliver(&mut sink, &spool), Ok(Step::Idle { due: None }));
    let service = service.lock().unwrap();
    assert_eq!(service.calls[1..], [vec![two, four]]);
    assert_eq!(service.taken, ["one", "three", "five", "two", "four"].map(record));
    let delivered = sink.delivered();
    assert_eq!((delivered.segments, delivered.records, delivered.calls), (1, 5, 2));
    assert_eq!(delivered.text_bytes, delivered.bytes);
    assert_eq!(delivered.bytes, service.taken.iter().map(|record| record.len() as u64).sum::<u64>());
    assert!(spool.segments().is_empty());
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let text: String = (0..1_200).map(|at| format!("line {at}\n")).collect();
    let (service, spool, directory, mut first) = scene(Framing::Json, &text, &[]);
    assert_eq!(deliver(&mut first, &spool), Ok(Step::Progress));
    let mut second = Firehose::new(&first.settings, directory.path());
    second.connection = first.connection;
    while deliver(&mut second, &spool).unwrap() == Step::Progress {}
    let wanted: Vec<String> = (0..1_200).map(|at| format!(r#"{{"message":"line {at}"}}"#)).collect();
    let service = service.lock().unwrap();
    assert_eq!(service.taken, wanted);
    assert_eq!(service.calls.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 200]);
}

#[test]
fn lines_are_packed() {
    let (service, spool, _directory, mut sink) = scene(Framing::Lines, "one\ntwo\n", &[]);
    assert_eq!(deliver(&mut sink, &spool), Ok(Step::Progress));
    assert_eq!(service.lock().unwrap().taken, ["one\ntwo\n"]);
}
