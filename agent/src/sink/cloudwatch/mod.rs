//! Puts lines into CloudWatch Logs: a stream for each interface, an event for each record.
//! Must not know what is in a line; the spool's lines begin with the event's time.
//! Always: within a stream in order; at least once: what was under way when the agent was killed is sent again.
#![forbid(unsafe_code)]

mod batch;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use aws_config::SdkConfig;
use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::error::ProvideErrorMetadata;
use aws_sdk_cloudwatchlogs::types::InputLogEvent;
use futures_util::future::join_all;

use super::aws::{Connection, error};
use super::dead_letter::DeadLetter;
use super::walk::{Group, Walk};
use super::{Delivered, Fault, Outcome, Step};
use crate::flow_log::{self, Endpoint, FlowLog, TrafficType};
use crate::spool::Spool;
use batch::Event;

/// Calls at the same time.
const PARALLEL: usize = 8;

pub(crate) struct CloudWatch {
    connection: Connection<Client>,
    place: Place,
    traffic_type: TrafficType,
    walk: Walk,
    /// Of the group that is being delivered, a stream each; none: the next is to be read.
    jobs: Vec<Job>,
    dead: DeadLetter,
    delivered: Delivered,
}

/// Where streams are.
struct Place {
    group: String,
    tags: BTreeMap<String, String>,
    retention_days: Option<u16>,
    /// We made the group, and it keeps events for ever so far.
    lacks_retention: Cell<bool>,
}

/// What one stream gets of a group of blocks.
struct Job {
    stream: String,
    text: Vec<u8>,
    events: Vec<Event>,
    batches: Vec<Range<usize>>,
    /// Batches that are out.
    done: usize,
}

fn make(config: &SdkConfig, _: &Endpoint) -> Client {
    Client::new(config)
}

impl CloudWatch {
    /// `directory` is the spool's.
    pub(crate) fn new(log: &FlowLog, settings: &flow_log::CloudWatchLogs, directory: &Path) -> Self {
        let place = Place {
            group: settings.group.clone(),
            tags: log.tags.clone(),
            retention_days: settings.retention_days,
            lacks_retention: Cell::new(false),
        };
        Self {
            connection: Connection::new(&settings.endpoint, make),
            place,
            traffic_type: log.traffic_type,
            walk: Walk::new(directory),
            jobs: Vec::new(),
            dead: DeadLetter::new(directory),
            delivered: Delivered::default(),
        }
    }

    pub(crate) fn delivered(&self) -> Delivered {
        Delivered { dead_letters: self.dead.lines, ..self.delivered }
    }

    /// A batch to each of a few streams.
    pub(crate) async fn deliver(&mut self, spool: &Spool) -> Result<Step, Outcome> {
        self.dead.keep()?;
        if self.jobs.is_empty() {
            let Some(group) = self.walk.next(spool)? else { return Ok(Step::Idle { due: None }) };
            self.jobs = self.jobs_of(group)?;
            self.dead.keep()?;
        }
        let failed = self.round().await;
        self.dead.keep()?;
        if self.jobs.iter().all(Job::is_done) {
            self.delivered.segments += u64::from(self.walk.done(spool)?);
            self.jobs.clear();
        } else {
            let calls: Vec<usize> = self.jobs.iter().map(|job| job.done).collect();
            self.walk.note(&calls);
        }
        match failed {
            Some(outcome) => Err(outcome),
            None => Ok(Step::Progress),
        }
    }

    /// By stream, in the order of their first blocks.
    fn jobs_of(&mut self, group: Group) -> Result<Vec<Job>, Outcome> {
        let suffix = self.traffic_type.name().to_ascii_lowercase();
        let mut jobs: Vec<Job> = Vec::new();
        for block in &group.blocks {
            let stream = format!("{}-{suffix}", block.key);
            let text = block.text()?;
            match jobs.iter_mut().find(|job| job.stream == stream) {
                Some(job) => job.text.extend_from_slice(&text),
                None => jobs.push(Job { stream, text, events: Vec::new(), batches: Vec::new(), done: 0 }),
            }
        }
        for (at, job) in jobs.iter_mut().enumerate() {
            let (events, unfit) = batch::events(&job.text);
            (job.batches, job.events) = (batch::batches(&events), events);
            job.done = group.calls.get(at).copied().unwrap_or(0).min(job.batches.len());
            // Once: the note of calls is written after these are kept.
            if group.calls.is_empty() {
                for (reason, line) in unfit {
                    self.dead.add(reason, &job.stream, &job.text[line]);
                }
            }
        }
        Ok(jobs)
    }

    /// Streams that fail do not keep others from their progress.
    async fn round(&mut self) -> Option<Outcome> {
        let client = self.connection.client().await;
        let place = &self.place;
        let open = self.jobs.iter_mut().filter(|job| !job.is_done()).take(PARALLEL);
        let calls = open.map(async |job| {
            let sent = place.send(&client, job).await;
            (job, sent)
        });
        let mut failed = None;
        for (job, sent) in join_all(calls).await {
            match sent {
                Ok(rejected) => {
                    let batch = &job.events[job.batches[job.done].clone()];
                    let lost: usize = rejected.iter().map(|(_, range)| range.len()).sum();
                    for (reason, range) in rejected {
                        for event in &batch[range] {
                            self.dead.add(reason, &job.stream, &job.text[event.message.clone()]);
                        }
                    }
                    self.delivered.calls += 1;
                    self.delivered.records += (batch.len() - lost) as u64;
                    let bytes = batch.iter().map(|event| event.message.len() as u64).sum::<u64>();
                    self.delivered.bytes += bytes;
                    self.delivered.text_bytes += bytes;
                    job.done += 1;
                }
                Err(outcome) => failed = failed.or(Some(outcome)),
            }
        }
        self.connection.settle(failed.as_ref().unwrap_or(&Outcome::Done));
        failed
    }
}

impl Job {
    fn is_done(&self) -> bool {
        self.done == self.batches.len()
    }

    /// None of it can fail to build: everything that is required is set.
    fn next_batch(&self) -> Vec<InputLogEvent> {
        let message = |event: &Event| String::from_utf8_lossy(&self.text[event.message.clone()]).into_owned();
        let build = |event: &Event| InputLogEvent::builder().timestamp(event.time).message(message(event)).build().ok();
        self.events[self.batches[self.done].clone()].iter().filter_map(build).collect()
    }
}

const NOT_FOUND: &str = "ResourceNotFoundException";
const EXISTS: &str = "ResourceAlreadyExistsException";

impl Place {
    /// The job's next batch. Returns what of it was not taken.
    async fn send(&self, client: &Client, job: &Job) -> Result<Vec<(&'static str, Range<usize>)>, Outcome> {
        if self.lacks_retention.get() {
            self.set_retention(client).await?;
        }
        let count = job.batches[job.done].len();
        let call = || {
            let call = client.put_log_events().log_group_name(&self.group).log_stream_name(&job.stream);
            call.set_log_events(Some(job.next_batch()))
        };
        let mut sent = call().send().await;
        if sent.as_ref().is_err_and(|error| error.code() == Some(NOT_FOUND)) {
            self.make_stream(client, &job.stream).await?;
            sent = call().send().await;
        }
        match sent {
            Ok(answer) => Ok(answer.rejected_log_events_info().map_or(Vec::new(), |info| batch::rejected(info, count))),
            Err(error) => match error.code() {
                // Older services; what they have they keep.
                Some("DataAlreadyAcceptedException") => Ok(Vec::new()),
                Some(NOT_FOUND) => {
                    Err(Outcome::Retry(Fault::new(NOT_FOUND, "the stream was made and is not there yet")))
                }
                _ => Err(error::outcome(&error)),
            },
        }
    }

    async fn make_stream(&self, client: &Client, stream: &str) -> Result<(), Outcome> {
        let call = client.create_log_stream().log_group_name(&self.group).log_stream_name(stream);
        let mut made = call.clone().send().await;
        if made.as_ref().is_err_and(|error| error.code() == Some(NOT_FOUND)) {
            self.make_group(client).await?;
            made = call.send().await;
        }
        match made {
            Ok(_) => Ok(()),
            Err(error) => match error.code() {
                Some(EXISTS) => Ok(()),
                Some(NOT_FOUND) => {
                    Err(Outcome::Retry(Fault::new(NOT_FOUND, "the group was made and is not there yet")))
                }
                _ => Err(error::outcome(&error)),
            },
        }
    }

    async fn make_group(&self, client: &Client) -> Result<(), Outcome> {
        let mut call = client.create_log_group().log_group_name(&self.group);
        for (key, value) in &self.tags {
            call = call.tags(key, value);
        }
        match call.send().await {
            Ok(_) => {
                self.lacks_retention.set(self.retention_days.is_some());
                self.set_retention(client).await
            }
            Err(error) if error.code() == Some(EXISTS) => Ok(()),
            Err(error) => Err(error::outcome(&error)),
        }
    }

    async fn set_retention(&self, client: &Client) -> Result<(), Outcome> {
        let Some(days) = self.retention_days else { return Ok(()) };
        let call = client.put_retention_policy().log_group_name(&self.group).retention_in_days(days.into());
        call.send().await.map_err(|error| error::outcome(&error))?;
        self.lacks_retention.set(false);
        Ok(())
    }
}
