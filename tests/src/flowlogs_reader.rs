//! `flowlogs-reader` (PyPI), which people read AWS's flow logs with, on what an agent has published to moto.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::moto::Moto;
use crate::netns::Netns;
use crate::{Flow, Totals, venv};

/// `source` is a bucket and a folder, or a log group.
const READ: &str = r#"
import collections, datetime, json, sys
import boto3
from flowlogs_reader import FlowLogsReader, S3FlowLogsReader
service, source, endpoint = sys.argv[1:]
client = boto3.client(service, endpoint_url=endpoint, region_name="us-east-1",
    aws_access_key_id="test", aws_secret_access_key="test")
now, day = datetime.datetime.utcnow(), datetime.timedelta(days=1)
reader = {"s3": S3FlowLogsReader, "logs": FlowLogsReader}[service](
    source, boto_client=client, start_time=now - day, end_time=now + day, raise_on_error=True)
records, flows = 0, collections.defaultdict(lambda: [0, 0])
for record in reader:
    records += 1
    if record.log_status == "OK":
        flow = flows[record.srcaddr, record.dstaddr, record.protocol, record.srcport, record.dstport]
        flow[0] += record.packets
        flow[1] += record.bytes
json.dump({"records": records, "flows": [[*key, *totals] for key, totals in flows.items()]}, sys.stdout)
"#;

#[derive(Deserialize)]
pub(crate) struct Answer {
    records: usize,
    flows: Vec<(String, String, u8, u16, u16, u64, u64)>,
}

/// What it makes of them.
#[derive(Debug)]
pub struct Reading {
    pub records: usize,
    pub flows: BTreeMap<Flow, Totals>,
}

/// Reads the objects of a bucket, `folder` without slashes at its ends and maybe empty.
pub fn s3(ns: &Netns, moto: &Moto<'_>, bucket: &str, folder: &str) -> Result<Reading> {
    read(ns, moto, "s3", Path::new(bucket).join(folder).to_str().context("folder")?)
}

/// Reads the streams of a log group.
pub fn logs(ns: &Netns, moto: &Moto<'_>, group: &str) -> Result<Reading> {
    read(ns, moto, "logs", group)
}

fn read(ns: &Netns, moto: &Moto<'_>, service: &str, source: &str) -> Result<Reading> {
    let endpoint = format!("http://{}", moto.address);
    let text = ns.run(&[venv::python()?.to_str().context("path")?, "-c", READ, service, source, &endpoint])?;
    serde_json::from_str::<Answer>(&text)?.reading()
}

impl Answer {
    pub(crate) fn reading(self) -> Result<Reading> {
        let flow = |(src, dst, protocol, sport, dport, packets, bytes): (String, String, u8, u16, u16, u64, u64)| {
            let flow = Flow { src: src.parse()?, dst: dst.parse()?, protocol, sport, dport };
            Ok((flow, Totals { packets, bytes }))
        };
        Ok(Reading { records: self.records, flows: self.flows.into_iter().map(flow).collect::<Result<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use anyhow::ensure;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use serde_json::json;

    use super::*;
    use crate::http::Request;

    const HEADER: &str = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes \
        start end action log-status";

    fn lines(now: u64) -> [String; 3] {
        let tail = "ACCEPT OK";
        [
            format!("2 123456789012 eni-0a 10.77.0.1 10.77.0.2 7000 9000 17 3 300 {now} {now} {tail}"),
            format!("2 123456789012 eni-0a 10.77.0.1 10.77.0.2 7000 9000 17 1 100 {now} {now} {tail}"),
            format!("2 123456789012 eni-0a - - - - - - - {now} {now} - NODATA"),
        ]
    }

    /// The one flow of [`lines`].
    fn expect_lines(reading: &Reading) -> Result<()> {
        let flow =
            Flow { src: "10.77.0.1".parse()?, dst: "10.77.0.2".parse()?, protocol: 17, sport: 7000, dport: 9000 };
        let expected = BTreeMap::from([(flow, Totals { packets: 4, bytes: 400 })]);
        ensure!(reading.records == 3 && reading.flows == expected, "{reading:?}");
        Ok(())
    }

    #[test]
    fn reads_objects_and_streams() -> Result<()> {
        let ns = Netns::new()?;
        let moto = Moto::start(&ns)?;
        let now = crate::now()?.as_secs();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        writeln!(gzip, "{HEADER}\n{}", lines(now).join("\n"))?;
        let stamp = |format: &str| crate::netns::run(&["date", "-u", &format!("-d@{now}"), format]);
        let (day, minute) = (stamp("+%Y/%m/%d")?, stamp("+%Y%m%dT%H%MZ")?);
        let path = format!(
            "/flow-logs/site/AWSLogs/123456789012/vpcflowlogs/us-east-1/{}/123456789012_vpcflowlogs_us-east-1_fl-1_{}_0a.log.gz",
            day.trim(),
            minute.trim()
        );
        moto.create_bucket("flow-logs")?;
        Request::signed("PUT", &path, "s3", gzip.finish()?).call(&ns, moto.address)?;
        expect_lines(&s3(&ns, &moto, "flow-logs", "site")?)?;

        moto.logs("CreateLogGroup", &json!({"logGroupName": "group"}))?;
        moto.logs("CreateLogStream", &json!({"logGroupName": "group", "logStreamName": "eni-0a-all"}))?;
        let events = lines(now).map(|line| json!({"timestamp": now * 1000, "message": line}));
        moto.logs(
            "PutLogEvents",
            &json!({"logGroupName": "group", "logStreamName": "eni-0a-all", "logEvents": events}),
        )?;
        expect_lines(&logs(&ns, &moto, "group")?)
    }
}
