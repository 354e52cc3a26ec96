//! moto, a stand-in for AWS's services, on a namespace's loopback. It checks few limits (see [`crate::strict_logs`]) and
//! no signatures.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::http::Request;
use crate::netns::Netns;
use crate::{venv, wait_for};

const ADDRESS: &str = "127.0.0.1:5000";
/// Where it answers without anything in between.
pub const URL: &str = "http://127.0.0.1:5000";

/// Ended on drop, and by the kernel when the test is killed.
#[derive(Debug)]
pub struct Moto<'a> {
    ns: &'a Netns,
    pub address: SocketAddr,
    process: Child,
    _log: NamedTempFile,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds.
    pub timestamp: i64,
    pub message: String,
}

impl<'a> Moto<'a> {
    /// Waits until it answers.
    pub fn start(ns: &'a Netns) -> Result<Self> {
        let address: SocketAddr = ADDRESS.parse()?;
        let log = NamedTempFile::new()?;
        let mut process = Command::new("nsenter")
            .arg(format!("--net={}", ns.path()))
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(venv::python()?)
            .args(["-m", "moto.server", "-H", &address.ip().to_string(), "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A line for each request: nobody would empty a pipe.
            .stderr(log.reopen()?)
            .spawn()?;
        let mut is_up = || {
            if let Some(status) = process.try_wait()? {
                bail!("moto ended with {status}: {}", fs::read_to_string(log.path())?);
            }
            Ok(ns.enter(|| Request::signed("GET", "/", "s3", "").send(address)).ok().map(|_| ()))
        };
        let up = wait_for("answer from moto", Duration::from_secs(60), &mut is_up);
        let moto = Self { ns, address, process, _log: log };
        up.map(|()| moto)
    }

    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        Request::signed("PUT", &format!("/{bucket}"), "s3", "").call(self.ns, self.address)?;
        Ok(())
    }

    /// Sorted by key.
    pub fn keys(&self, bucket: &str) -> Result<Vec<String>> {
        let mut keys = Vec::<String>::new();
        loop {
            let after = keys.last().map(|key| format!("&start-after={}", encode(key))).unwrap_or_default();
            let page = self.s3(&format!("/{bucket}?list-type=2{after}"))?;
            let page = String::from_utf8(page)?;
            keys.extend(elements(&page, "Key"));
            if elements(&page, "IsTruncated").next().as_deref() != Some("true") {
                return Ok(keys);
            }
        }
    }

    pub fn objects(&self, bucket: &str) -> Result<Vec<Object>> {
        let object = |key: String| Ok(Object { body: self.s3(&format!("/{bucket}/{}", encode(&key)))?, key });
        self.keys(bucket)?.into_iter().map(object).collect()
    }

    /// The object's tags, as `key=value`, sorted.
    pub fn tags(&self, bucket: &str, key: &str) -> Result<Vec<String>> {
        let text = String::from_utf8(self.s3(&format!("/{bucket}/{}?tagging", encode(key)))?)?;
        let mut tags: Vec<String> =
            elements(&text, "Key").zip(elements(&text, "Value")).map(|(key, value)| format!("{key}={value}")).collect();
        tags.sort();
        Ok(tags)
    }

    fn s3(&self, path: &str) -> Result<Vec<u8>> {
        Ok(Request::signed("GET", path, "s3", "").call(self.ns, self.address)?.body)
    }

    /// An operation of CloudWatch Logs.
    pub fn logs(&self, operation: &str, arguments: &Value) -> Result<Value> {
        self.json("logs", &format!("Logs_20140328.{operation}"), arguments)
    }

    /// Sorted by name; empty when there is no such group.
    pub fn streams(&self, group: &str) -> Result<Vec<String>> {
        let groups = self.logs("DescribeLogGroups", &json!({"logGroupNamePrefix": group}))?;
        if !list(&groups, "logGroups").iter().any(|item| item["logGroupName"] == group) {
            return Ok(Vec::new());
        }
        let answer = self.logs("DescribeLogStreams", &json!({"logGroupName": group}))?;
        let name = |item: &Value| Ok(item["logStreamName"].as_str().context("logStreamName")?.to_owned());
        list(&answer, "logStreams").iter().map(name).collect()
    }

    /// In the stream's order.
    pub fn events(&self, group: &str, stream: &str) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut token = Value::Null;
        loop {
            let mut arguments = json!({"logGroupName": group, "logStreamName": stream, "startFromHead": true});
            if !token.is_null() {
                arguments["nextToken"] = token.clone();
            }
            let page = self.logs("GetLogEvents", &arguments)?;
            for event in list(&page, "events") {
                let timestamp = event["timestamp"].as_i64().context("timestamp")?;
                events.push(Event { timestamp, message: event["message"].as_str().context("message")?.to_owned() });
            }
            // The same token again is the end.
            if page["nextForwardToken"] == token {
                return Ok(events);
            }
            token = page["nextForwardToken"].clone();
        }
    }

    /// A Firehose stream that writes into a bucket, an object for each call.
    pub fn create_delivery_stream(&self, name: &str, bucket: &str) -> Result<()> {
        let destination = json!({
            "RoleARN": "arn:aws:iam::123456789012:role/firehose",
            "BucketARN": format!("arn:aws:s3:::{bucket}"),
        });
        let arguments = json!({
            "DeliveryStreamName": name,
            "DeliveryStreamType": "DirectPut",
            "ExtendedS3DestinationConfiguration": destination,
        });
        self.json("firehose", "Firehose_20150804.CreateDeliveryStream", &arguments)?;
        Ok(())
    }

    fn json(&self, service: &str, target: &str, arguments: &Value) -> Result<Value> {
        let request = Request::signed("POST", "/", service, arguments.to_string())
            .with("X-Amz-Target", target)
            .with("Content-Type", "application/x-amz-json-1.1");
        let response = request.call(self.ns, self.address).with_context(|| target.to_owned())?;
        if response.body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&response.body)?) }
    }
}

impl Drop for Moto<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The texts of all elements of this name; ours hold nothing that XML escapes.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = String> + 'a {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, behind) = rest.split_once(&open)?;
        let (text, behind) = behind.split_once(&close)?;
        rest = behind;
        Some(text.to_owned())
    })
}

fn encode(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn keeps_objects_events_and_records() -> Result<()> {
        let ns = Netns::new()?;
        let moto = Moto::start(&ns)?;
        moto.create_bucket("flow-logs")?;
        let key = "AWSLogs/aws-account-id=123456789012/x_y.log.gz";
        let path = format!("/flow-logs/{}", encode(key));
        let put = Request::signed("PUT", &path, "s3", "body").with("x-amz-tagging", "team=network");
        put.call(&ns, moto.address)?;
        ensure!(moto.objects("flow-logs")? == [Object { key: key.to_owned(), body: b"body".to_vec() }]);
        ensure!(moto.tags("flow-logs", key)? == ["team=network"]);

        ensure!(moto.streams("group")?.is_empty());
        moto.logs("CreateLogGroup", &json!({"logGroupName": "group"}))?;
        moto.logs("CreateLogStream", &json!({"logGroupName": "group", "logStreamName": "eni-1-all"}))?;
        let now = i64::try_from(crate::now()?.as_millis())?;
        let sent: Vec<Event> =
            (0..12_000).map(|at| Event { timestamp: now + at / 100, message: format!("line {at}") }).collect();
        for part in sent.chunks(5000) {
            let events: Vec<Value> =
                part.iter().map(|event| json!({"timestamp": event.timestamp, "message": event.message})).collect();
            let arguments = json!({"logGroupName": "group", "logStreamName": "eni-1-all", "logEvents": events});
            moto.logs("PutLogEvents", &arguments)?;
        }
        ensure!(moto.streams("group")? == ["eni-1-all"]);
        ensure!(moto.events("group", "eni-1-all")? == sent);

        moto.create_bucket("hose")?;
        moto.create_delivery_stream("stream", "hose")?;
        let arguments = json!({"DeliveryStreamName": "stream", "Records": [{"Data": "aGVsbG8="}, {"Data": "IQ=="}]});
        moto.json("firehose", "Firehose_20150804.PutRecordBatch", &arguments)?;
        let objects = moto.objects("hose")?;
        ensure!(objects.len() == 1 && objects[0].body == b"hello!", "{objects:?}");
        Ok(())
    }
}
