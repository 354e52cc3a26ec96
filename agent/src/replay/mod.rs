//! `flowlogd replay`: a capture file -> the records that the agent would have written, through the same stages.
//! Must not know the command line, nor any clock but the capture's.
//! Always: the same file and settings give the same bytes; a packet is in the window of its own time, wherever it is in
//! the file.
#![forbid(unsafe_code)]

mod count;
mod cut;
mod file;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::IpAddr;

use self::count::{Counter, Fragments};
pub(crate) use self::file::Broken;
use self::file::File;
use crate::capture::flow::{Drained, Flow};
use crate::config::Config;
use crate::encode;
use crate::flow_log::FlowLog;
use crate::identity::services::ServicesFile;
use crate::known::Known;
use crate::pipeline::{Pipeline, Slice};
use crate::record;
use crate::select::Named;
use crate::subscription::Ended;
use crate::window::window_at;

/// Longer silences are between captures and not within one: nobody knows that there was no traffic.
const SILENCE_MAX: i64 = 86_400;
const BUFFER_BYTES: usize = 1 << 20;

/// What a capture does not say of itself.
#[derive(Debug, Default)]
pub(crate) struct Unsaid {
    /// Of the host: what they send is egress.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Of an interface without a name.
    pub(crate) interface: String,
}

/// What is worth a word to whoever reads the records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// In the capture, with those that are in no record.
    pub(crate) packets: u64,
    /// Cut before their ports, or with impossible headers.
    pub(crate) unparsable: u64,
    /// Of pcapng's kinds that say no time or are no longer written.
    pub(crate) untimed: u64,
    /// Longer than any link carries: what the capturing host's offloads had joined or not yet cut.
    pub(crate) joined: u64,
    /// Why it ended before the file did.
    pub(crate) broken: Option<Broken>,
}

/// Writes the records of the one flow log of `config` to `out`. An error is one of `out`.
pub(crate) fn replay(input: impl Read + Send, config: &Config, unsaid: &Unsaid, out: impl Write) -> io::Result<Report> {
    let Some(log) = config.logs.first() else { return Ok(Report::default()) };
    let mut file = File::new(unsaid);
    let (mut windows, mut fragments) = (BTreeMap::<i64, Counter>::new(), Fragments::default());
    let broken = file.read(input, |frame| {
        let (start, _) = window_at(frame.seconds, log.interval);
        windows.entry(start).or_default().count(frame, &mut fragments);
    });
    let mut report = Report { broken: broken.err(), packets: file.packets, untimed: file.untimed, ..Report::default() };
    for counter in windows.values() {
        report.unparsable += counter.unparsable();
        report.joined += counter.joined();
    }
    let tracked = named(file.into_names(), config);
    let services = config.host.ip_ranges.as_deref().and_then(|path| ServicesFile::new(path).poll());
    let known = Known { host: config.host.clone(), services, ..Known::default() };
    let host = known.host(log);
    let mut records = Records { config, log, known, host, tracked, out, lines: Vec::with_capacity(BUFFER_BYTES) };
    records.write(windows)?;
    Ok(report)
}

/// By the index that stands for an interface.
fn named(names: impl Iterator<Item = (u32, String)>, config: &Config) -> BTreeMap<u32, Named> {
    let named = |name: String| Named {
        // Of this host nothing may come in: an interface here may have the same name.
        id: config.host.made_up_id(&name),
        name,
        addresses: None,
        loopback: false,
    };
    names.map(|(index, name)| (index, named(name))).collect()
}

/// The stages behind the counting.
struct Records<'a, W> {
    config: &'a Config,
    log: &'a FlowLog,
    known: Known,
    host: record::Host,
    tracked: BTreeMap<u32, Named>,
    out: W,
    lines: Vec<u8>,
}

impl<W: Write> Records<'_, W> {
    fn write(&mut self, windows: BTreeMap<i64, Counter>) -> io::Result<()> {
        let mut pipeline = Pipeline::new(self.config.exclusions.clone(), Vec::new());
        let mut expected = None;
        for (start, counter) in windows {
            // Silent windows have records as well.
            let silent = expected.filter(|expected| start - expected <= SILENCE_MAX);
            let mut at = silent.unwrap_or(start);
            while at < start {
                at = self.window(&mut pipeline, at, Drained::default())? + 1;
            }
            expected = Some(self.window(&mut pipeline, start, counter.into_drained())? + 1);
        }
        self.out.write_all(&self.lines)?;
        self.out.flush()
    }

    /// Its last second.
    fn window(&mut self, pipeline: &mut Pipeline, start: i64, drained: Drained) -> io::Result<i64> {
        let span = window_at(start, self.log.interval);
        pipeline.absorb(drained);
        let mut slice = pipeline.close(span, &self.tracked, BTreeSet::new(), false);
        slice.flows.sort_unstable_by_key(order);
        self.slice(&slice)?;
        Ok(span.1)
    }

    fn slice(&mut self, slice: &Slice) -> io::Result<()> {
        let window = Ended::with(slice, self.log, &self.known);
        let batch = window.batch(&self.host, self.log, &slice.flows);
        for record in batch.records() {
            encode::append(&self.log.format, &record, &mut self.lines);
            if self.lines.len() >= BUFFER_BYTES {
                self.out.write_all(&self.lines)?;
                self.lines.clear();
            }
        }
        Ok(())
    }
}

/// Of a window's records: interface as it first came, then time, then the flow. No two flows are equal in all.
fn order(flow: &Flow) -> impl Ord + use<> {
    let key = flow.key;
    (key.ifindex, flow.first, flow.last, key.src, key.dst, key.src_port, key.dst_port, key.protocol, key.direction)
}

#[cfg(test)]
mod tests;
