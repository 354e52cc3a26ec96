//! Puts lines into a Firehose stream.
//! Must not know what is in a line.
//! Always: at least once: what was under way when the agent was killed is sent again; of a call that is taken in part
//! only the rest.
#![forbid(unsafe_code)]

mod frame;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;

use aws_config::SdkConfig;
use aws_sdk_firehose::Client;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::{PutRecordBatchResponseEntry, Record};

use super::aws::{Connection, error};
use super::dead_letter::DeadLetter;
use super::walk::Walk;
use super::{Delivered, Fault, Outcome, Step};
use crate::flow_log::{self, Endpoint};
use crate::spool::Spool;

pub(crate) struct Firehose {
    connection: Connection<Client>,
    settings: flow_log::Firehose,
    walk: Walk,
    /// The group that is being delivered.
    load: Option<Load>,
    dead: DeadLetter,
    delivered: Delivered,
}

struct Load {
    lines: u64,
    records: Vec<Vec<u8>>,
    calls: Vec<Range<usize>>,
    /// Calls that are out.
    done: usize,
    /// Of the next call: the records that are not out.
    open: Vec<usize>,
}

fn make(config: &SdkConfig, _: &Endpoint) -> Client {
    Client::new(config)
}

impl Firehose {
    /// `directory` is the spool's.
    pub(crate) fn new(settings: &flow_log::Firehose, directory: &Path) -> Self {
        Self {
            connection: Connection::new(&settings.endpoint, make),
            settings: settings.clone(),
            walk: Walk::new(directory),
            load: None,
            dead: DeadLetter::new(directory),
            delivered: Delivered::default(),
        }
    }

    pub(crate) fn delivered(&self) -> Delivered {
        Delivered { dead_letters: self.dead.lines, ..self.delivered }
    }

    /// One call.
    pub(crate) async fn deliver(&mut self, spool: &Spool) -> Result<Step, Outcome> {
        self.dead.keep()?;
        if self.load.is_none() {
            self.load = self.next(spool)?;
            self.dead.keep()?;
        }
        let Some(load) = &mut self.load else { return Ok(Step::Idle { due: None }) };
        if load.done < load.calls.len() {
            let client = self.connection.client().await;
            let outcome = load.send(&client, &self.settings.stream, &mut self.delivered).await;
            self.connection.settle(&outcome);
            if outcome != Outcome::Done {
                return Err(outcome);
            }
        }
        if load.done < load.calls.len() {
            self.walk.note(&[load.done]);
            return Ok(Step::Progress);
        }
        let lines = load.lines;
        let is_segment_done = self.walk.done(spool)?;
        self.load = None;
        self.delivered.records += lines;
        self.delivered.segments += u64::from(is_segment_done);
        Ok(Step::Progress)
    }

    fn next(&mut self, spool: &Spool) -> Result<Option<Load>, Outcome> {
        let Some(group) = self.walk.next(spool)? else { return Ok(None) };
        let (mut records, mut lines) = (Vec::new(), 0);
        for block in &group.blocks {
            let text = block.text()?;
            let (framed, unfit) = frame::records(&text, self.settings.framing);
            records.extend(framed);
            lines += u64::from(block.records) - unfit.len() as u64;
            // Once: the note of calls is written after these are kept.
            for line in unfit.into_iter().filter(|_| group.calls.is_empty()) {
                self.dead.add("too-long", &self.settings.stream, text[line].trim_ascii_end());
            }
        }
        let calls = frame::calls(&records);
        let done = group.calls.first().copied().unwrap_or(0).min(calls.len());
        let mut load = Load { lines, records, calls, done, open: Vec::new() };
        load.open_call();
        Ok(Some(load))
    }
}

impl Load {
    fn open_call(&mut self) {
        self.open = self.calls.get(self.done).cloned().unwrap_or_default().collect();
    }

    /// What is left of the next call.
    async fn send(&mut self, client: &Client, stream: &str, delivered: &mut Delivered) -> Outcome {
        // None of it can fail to build: the data is set.
        let record = |at: &usize| Record::builder().data(Blob::new(self.records[*at].clone())).build().ok();
        let records = self.open.iter().filter_map(record).collect();
        let answer =
            match client.put_record_batch().delivery_stream_name(stream).set_records(Some(records)).send().await {
                Ok(answer) => answer,
                Err(error) => return error::outcome(&error),
            };
        delivered.calls += 1;
        let before = std::mem::take(&mut self.open);
        let failed = if answer.failed_put_count() > 0 { failed(answer.request_responses()) } else { Vec::new() };
        self.open = failed.iter().filter_map(|(at, _)| before.get(*at).copied()).collect();
        let size = |open: &[usize]| open.iter().map(|&at| self.records[at].len() as u64).sum::<u64>();
        let taken = size(&before) - size(&self.open);
        delivered.bytes += taken;
        delivered.text_bytes += taken;
        if let Some((_, code)) = failed.first() {
            let (left, all) = (self.open.len(), before.len());
            return Outcome::Retry(Fault::new(code, format!("{left} of {all} records were not taken")));
        }
        self.done += 1;
        self.open_call();
        Outcome::Done
    }
}

/// Places and error codes of the records that were not taken.
fn failed(entries: &[PutRecordBatchResponseEntry]) -> Vec<(usize, &str)> {
    entries.iter().enumerate().filter_map(|(at, entry)| entry.error_code().map(|code| (at, code))).collect()
}
