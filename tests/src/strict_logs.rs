//! CloudWatch Logs as documented: it refuses what AWS refuses, and keeps every refusal, for a test to fail on. moto lets
//! batches of any size through.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::http::{self, Request, Response};
use crate::listener::Listener;
use crate::moto::Event;
use crate::netns::Netns;

const TARGET: &str = "Logs_20140328.";
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const EVENTS_MAX: usize = 10_000;
const BATCH_BYTES_MAX: usize = 1_048_576;
/// What an event counts for beside its message.
const EVENT_OVERHEAD: usize = 26;
const RETENTIONS: [i64; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// What the documentation calls an exception.
type Exception = (&'static str, String);

fn invalid(why: impl Into<String>) -> Exception {
    ("InvalidParameterException", why.into())
}

#[derive(Clone, Debug, Default)]
pub struct Group {
    pub retention_days: Option<i64>,
    pub tags: BTreeMap<String, String>,
    pub streams: BTreeMap<String, Vec<Event>>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<String, Group>,
    /// Events of each call that was taken.
    batches: Vec<usize>,
    violations: Vec<String>,
    /// Events that were too old, expired or too new.
    rejected: usize,
}

/// Ended on drop.
#[derive(Debug)]
pub struct StrictLogs {
    listener: Listener,
    state: Arc<Mutex<State>>,
}

impl StrictLogs {
    pub fn start(ns: &Netns, address: SocketAddr) -> Result<Self> {
        let state = Arc::<Mutex<State>>::default();
        let kept = Arc::clone(&state);
        let listener = http::serve(ns, address, move |request| {
            let now = crate::now().map_or(0, |now| now.as_millis() as i64);
            kept.lock().expect("strict server").answer(request, now)
        })?;
        Ok(Self { listener, state })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("strict server")
    }

    pub fn group(&self, name: &str) -> Option<Group> {
        self.state().groups.get(name).cloned()
    }

    /// Events in each batch so far.
    pub fn batches(&self) -> Vec<usize> {
        self.state().batches.clone()
    }

    /// Events that were in a batch and not taken, as the answer said.
    pub fn rejected(&self) -> usize {
        self.state().rejected
    }

    /// Fails if anything outside the documented limits was ever sent.
    pub fn expect_no_violation(&self) -> Result<()> {
        let violations = &self.state().violations;
        ensure!(violations.is_empty(), "{} violations: {:?}", violations.len(), &violations[..violations.len().min(5)]);
        Ok(())
    }
}

impl State {
    fn answer(&mut self, request: &Request, now: i64) -> Response {
        let target = request.header("x-amz-target").unwrap_or_default();
        let operation = target.strip_prefix(TARGET).unwrap_or(target).to_owned();
        let result = self.perform(&operation, request, now);
        let (status, body) = match result {
            Ok(answer) => (200, answer),
            Err((exception, message)) => {
                // Both tell a client what it could not know.
                if !["ResourceAlreadyExistsException", "ResourceNotFoundException"].contains(&exception) {
                    self.violations.push(format!("{operation}: {exception}: {message}"));
                }
                (400, json!({"__type": exception, "message": message}))
            }
        };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        Response::new(status, "application/x-amz-json-1.1", text)
    }

    fn perform(&mut self, operation: &str, request: &Request, now: i64) -> Result<Value, Exception> {
        if !request.header("authorization").is_some_and(|value| value.contains("/logs/aws4_request")) {
            return Err(("MissingAuthenticationTokenException", "not signed for logs".to_owned()));
        }
        let arguments: Value = serde_json::from_slice(&request.body)
            .map_err(|error| ("SerializationException", format!("{error}: {} bytes", request.body.len())))?;
        match operation {
            "CreateLogGroup" => self.create_group(&arguments),
            "CreateLogStream" => self.create_stream(&arguments),
            "PutRetentionPolicy" => self.put_retention(&arguments),
            "PutLogEvents" => self.put_events(&arguments, now),
            _ => Err(("UnknownOperationException", operation.to_owned())),
        }
    }

    fn create_group(&mut self, arguments: &Value) -> Result<Value, Exception> {
        let name = name(arguments, "logGroupName", |byte| byte.is_ascii_alphanumeric() || b"._/#-".contains(&byte))?;
        if self.groups.contains_key(name) {
            return Err(("ResourceAlreadyExistsException", name.to_owned()));
        }
        let tags = arguments["tags"].as_object().into_iter().flatten();
        let tags = tags.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        self.groups.insert(name.to_owned(), Group { tags, ..Group::default() });
        Ok(Value::Null)
    }

    fn group(&mut self, arguments: &Value) -> Result<&mut Group, Exception> {
        let name = arguments["logGroupName"].as_str().unwrap_or_default();
        self.groups.get_mut(name).ok_or_else(|| ("ResourceNotFoundException", "no such log group".to_owned()))
    }

    fn create_stream(&mut self, arguments: &Value) -> Result<Value, Exception> {
        let name = name(arguments, "logStreamName", |byte| !b":*".contains(&byte))?;
        let streams = &mut self.group(arguments)?.streams;
        if streams.contains_key(name) {
            return Err(("ResourceAlreadyExistsException", name.to_owned()));
        }
        streams.insert(name.to_owned(), Vec::new());
        Ok(Value::Null)
    }

    fn put_retention(&mut self, arguments: &Value) -> Result<Value, Exception> {
        let days = arguments["retentionInDays"].as_i64().filter(|days| RETENTIONS.contains(days));
        let days = days.ok_or_else(|| invalid(format!("retentionInDays {}", arguments["retentionInDays"])))?;
        self.group(arguments)?.retention_days = Some(days);
        Ok(Value::Null)
    }

    fn put_events(&mut self, arguments: &Value, now: i64) -> Result<Value, Exception> {
        let group = self.group(arguments)?;
        let stream = arguments["logStreamName"].as_str().unwrap_or_default();
        if !group.streams.contains_key(stream) {
            return Err(("ResourceNotFoundException", "no such log stream".to_owned()));
        }
        let events = parse(&arguments["logEvents"])?;
        let taken = check(&events, now, group.retention_days)?;
        let kept = group.streams.entry(stream.to_owned()).or_default();
        kept.extend_from_slice(&events[taken.expired.max(taken.too_old)..taken.too_new]);
        self.batches.push(events.len());
        self.rejected += events.len() - (taken.too_new - taken.expired.max(taken.too_old));
        Ok(taken.answer(events.len()))
    }
}

/// A name of 1 to 512 characters.
fn name<'a>(arguments: &'a Value, key: &str, is_allowed: impl Fn(u8) -> bool) -> Result<&'a str, Exception> {
    let name = arguments[key].as_str().unwrap_or_default();
    if (1..=512).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(name);
    }
    Err(invalid(format!("{key} '{name}'")))
}

fn parse(events: &Value) -> Result<Vec<Event>, Exception> {
    let event = |value: &Value| {
        let (timestamp, message) = (value["timestamp"].as_i64(), value["message"].as_str());
        let (Some(timestamp @ 0..), Some(message)) = (timestamp, message) else {
            return Err(invalid(format!("event {value}")));
        };
        Ok(Event { timestamp, message: message.to_owned() })
    };
    events.as_array().ok_or_else(|| invalid("no logEvents"))?.iter().map(event).collect()
}

/// Which of a batch's events are taken: from the later of the first two up to the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    /// One behind the last that is over 14 days old; 0 if there is none.
    too_old: usize,
    /// One behind the last that the retention has ended for.
    expired: usize,
    /// The first that is over two hours ahead; the number of events if there is none.
    too_new: usize,
}

impl Taken {
    fn answer(self, events: usize) -> Value {
        let mut info = serde_json::Map::new();
        if self.too_new < events {
            info.insert("tooNewLogEventStartIndex".to_owned(), self.too_new.into());
        }
        if self.too_old > 0 {
            info.insert("tooOldLogEventEndIndex".to_owned(), self.too_old.into());
        }
        if self.expired > 0 {
            info.insert("expiredLogEventEndIndex".to_owned(), self.expired.into());
        }
        let mut answer = json!({"nextSequenceToken": "0"});
        if !info.is_empty() {
            answer["rejectedLogEventsInfo"] = info.into();
        }
        answer
    }
}

/// The limits of PutLogEvents, with the time and the retention of the group.
fn check(events: &[Event], now: i64, retention_days: Option<i64>) -> Result<Taken, Exception> {
    if !(1..=EVENTS_MAX).contains(&events.len()) {
        return Err(invalid(format!("{} events, not 1 to {EVENTS_MAX}", events.len())));
    }
    let bytes: usize = events.iter().map(|event| event.message.len() + EVENT_OVERHEAD).sum();
    if bytes > BATCH_BYTES_MAX {
        return Err(invalid(format!("{bytes} bytes, more than {BATCH_BYTES_MAX}")));
    }
    if let Some(at) = events.iter().position(|event| event.message.is_empty()) {
        return Err(invalid(format!("event {at} is empty")));
    }
    if let Some(at) = events.windows(2).position(|pair| pair[0].timestamp > pair[1].timestamp) {
        return Err(invalid(format!("event {} is older than the one before", at + 1)));
    }
    let behind = |oldest: i64| events.partition_point(|event| event.timestamp < oldest);
    let taken = Taken {
        too_old: behind(now - 14 * DAY),
        expired: retention_days.map_or(0, |days| behind(now - days * DAY)),
        too_new: events.partition_point(|event| event.timestamp <= now + 2 * HOUR),
    };
    let valid = events.get(taken.expired.max(taken.too_old)..taken.too_new).unwrap_or_default();
    if let [first, .., last] = valid
        && last.timestamp - first.timestamp > DAY
    {
        return Err(invalid(format!("{} ms between events, more than a day", last.timestamp - first.timestamp)));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn event(timestamp: i64, length: usize) -> Event {
        Event { timestamp, message: "x".repeat(length) }
    }

    fn refusal(events: &[Event]) -> String {
        check(events, NOW, None).expect_err("taken").1
    }

    #[test]
    fn a_batch_at_every_limit_is_taken() {
        let most = vec![event(NOW, 78); EVENTS_MAX];
        let full = [event(NOW - DAY, BATCH_BYTES_MAX / 2 - EVENT_OVERHEAD), event(NOW, BATCH_BYTES_MAX / 2 - 26)];
        for batch in [&most[..], &full] {
            let all = Taken { too_old: 0, expired: 0, too_new: batch.len() };
            assert_eq!(check(batch, NOW, None), Ok(all));
            assert_eq!(all.answer(batch.len()), json!({"nextSequenceToken": "0"}));
        }
    }

    #[test]
    fn a_batch_past_a_limit_is_refused_whole() {
        assert!(refusal(&[]).starts_with("0 events"));
        assert!(refusal(&vec![event(NOW, 1); EVENTS_MAX + 1]).starts_with("10001 events"));
        let full = [event(NOW, BATCH_BYTES_MAX / 2 - EVENT_OVERHEAD), event(NOW, BATCH_BYTES_MAX / 2 - 25)];
        assert!(refusal(&full).starts_with("1048577 bytes"));
        assert!(refusal(&[event(NOW, 1), event(NOW, 0)]).starts_with("event 1 is empty"));
        assert!(refusal(&[event(NOW, 1), event(NOW - 1, 1)]).starts_with("event 1 is older"));
        assert!(refusal(&[event(NOW - DAY - 1, 1), event(NOW, 1)]).contains("more than a day"));
    }

    #[test]
    fn ages_are_rejected_by_index() -> Result<()> {
        let ages = [15 * DAY, 14 * DAY + 1, 14 * DAY, 14 * DAY - HOUR];
        let events: Vec<Event> = ages.iter().map(|age| event(NOW - age, 1)).collect();
        assert_eq!(check(&events, NOW, None), Ok(Taken { too_old: 2, expired: 0, too_new: 4 }));
        assert_eq!(check(&events, NOW, Some(1)), Ok(Taken { too_old: 2, expired: 4, too_new: 4 }));
        let events = [event(NOW + 2 * HOUR, 1), event(NOW + 2 * HOUR + 1, 1), event(NOW + 3 * HOUR, 1)];
        let taken = check(&events, NOW, None).map_err(|(_, why)| anyhow::anyhow!(why))?;
        let info = json!({"tooNewLogEventStartIndex": 1});
        assert_eq!(taken.answer(3), json!({"nextSequenceToken": "0", "rejectedLogEventsInfo": info}));
        // Only what is taken has to be within a day.
        assert!(check(&[event(NOW - 15 * DAY, 1), event(NOW, 1)], NOW, None).is_ok());
        Ok(())
    }

    fn call(state: &mut State, operation: &str, arguments: Value) -> (u16, Value) {
        let request = Request::signed("POST", "/", "logs", arguments.to_string())
            .with("X-Amz-Target", &format!("{TARGET}{operation}"));
        let response = state.answer(&request, NOW);
        (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
    }

    #[test]
    fn groups_and_streams_come_before_events() {
        let mut state = State::default();
        let events = json!({
            "logGroupName": "g", "logStreamName": "s",
            "logEvents": [{"timestamp": NOW - 20 * DAY, "message": "old"}, {"timestamp": NOW, "message": "new"}],
        });
        assert_eq!(call(&mut state, "PutLogEvents", events.clone()).1["__type"], "ResourceNotFoundException");
        let group = json!({"logGroupName": "g", "tags": {"team": "network"}});
        assert_eq!(call(&mut state, "CreateLogGroup", group.clone()).0, 200);
        assert_eq!(call(&mut state, "CreateLogGroup", group).1["__type"], "ResourceAlreadyExistsException");
        let stream = json!({"logGroupName": "g", "logStreamName": "s"});
        assert_eq!(call(&mut state, "CreateLogStream", stream).0, 200);
        let (status, answer) = call(&mut state, "PutLogEvents", events);
        assert_eq!((status, &answer["rejectedLogEventsInfo"]), (200, &json!({"tooOldLogEventEndIndex": 1})));
        let group = &state.groups["g"];
        assert_eq!(group.streams["s"], [Event { timestamp: NOW, message: "new".to_owned() }]);
        assert_eq!(group.tags["team"], "network");
        assert_eq!((state.rejected, state.batches.as_slice()), (1, &[2][..]));
        assert!(state.violations.is_empty(), "{:?}", state.violations);
    }

    #[test]
    fn what_is_outside_the_documentation_is_kept() {
        let mut state = State::default();
        assert_eq!(call(&mut state, "CreateLogGroup", json!({"logGroupName": "a b"})).0, 400);
        assert_eq!(call(&mut state, "PutLogEvent", json!({})).0, 400);
        assert_eq!(call(&mut state, "CreateLogGroup", json!({"logGroupName": "g"})).0, 200);
        assert_eq!(call(&mut state, "CreateLogStream", json!({"logGroupName": "g", "logStreamName": "a:b"})).0, 400);
        assert_eq!(call(&mut state, "PutRetentionPolicy", json!({"logGroupName": "g", "retentionInDays": 2})).0, 400);
        assert_eq!(call(&mut state, "PutRetentionPolicy", json!({"logGroupName": "g", "retentionInDays": 3})).0, 200);
        assert_eq!(state.violations.len(), 4, "{:?}", state.violations);
    }
}
