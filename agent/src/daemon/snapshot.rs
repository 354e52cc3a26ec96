//! Answers whoever asks what the agent does. Nothing is drained, closed or changed for that.
//! Always: what was published, what was drained since, and what the tables hold are each counted once.
#![forbid(unsafe_code)]

use super::Daemon;
use super::tally::narrow;
use super::{now, now_ms};
use crate::capture::flow::{Buffers, Direction, InterfaceTotals, Total};
use crate::capture::{Census, DropReport, Hook, interfaces};
use crate::deliver::{Delivery, Missed};
use crate::exclude;
use crate::flow_log;
use crate::flows::{About, Window};
use crate::pipeline::Open;
use crate::select::Named;
use crate::serve::{Ask, Asks};
use crate::spool::Spool;
use crate::status::{
    Cause, Drains, FlowLog, Host, Interface, Journal, Loss, Made, Position, Side, Snapshot, SumRule, Table, Verdicts,
    Waiting,
};
use crate::subscription::Subscription;
use std::collections::BTreeMap;
use std::ops::Add as _;
use std::sync::Arc;

impl Daemon {
    /// One snapshot for all who ask at a time.
    pub(super) fn answer(&mut self, asks: &Asks) {
        let mut asks = asks.take().peekable();
        if asks.peek().is_none() {
            return;
        }
        let mut snapshot = None;
        for ask in asks {
            // Who has gone away meanwhile needs none.
            match ask {
                Ask::Status(answer) => {
                    let found = || self.snapshot().map(Arc::new).map_err(|error| error.explained());
                    let _ = answer.send(snapshot.get_or_insert_with(found).clone());
                }
                Ask::Flows(answer) if answer.is_closed() => {}
                Ask::Flows(answer) => {
                    let _ = answer.send(self.look_at_flows().map_err(|error| error.to_string()));
                }
            }
        }
    }

    /// The rest is for whoever asked: this thread only copies.
    fn look_at_flows(&mut self) -> Result<Box<(About, Open)>, crate::capture::Error> {
        let peeked = self.capture.peek()?;
        let (start, end) = self.window;
        let about = About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            time_ms: now_ms(),
            uptime_seconds: self.started.1.elapsed().as_secs(),
            host: self.host_identity(),
            verdicts: self.verdicts(),
            interfaces: self.capture.attached().map(|interface| interface.name.clone()).collect(),
            window: Window { start, end, since_ms: self.since_ms },
        };
        Ok(Box::new((about, self.pipeline.open(peeked, &self.tracked))))
    }

    fn verdicts(&self) -> Verdicts {
        Verdicts { available: self.no_verdicts.is_none(), why_not: self.no_verdicts.clone() }
    }

    fn snapshot(&mut self) -> Result<Snapshot, crate::capture::Error> {
        let census = self.capture.census()?;
        let report = self.capture.drop_report()?;
        let (interfaces, total) = self.interfaces(&census);
        let named = |(exclusion, total): (&exclude::Exclusion, Total)| (exclusion.name.to_owned(), total);
        Ok(Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            time: now(),
            started: self.started.0,
            counted: Some(census.read),
            uptime_seconds: self.started.1.elapsed().as_secs(),
            network_namespace: interfaces::namespace(),
            host: self.host_identity(),
            pinned: self.capture.is_pinned(),
            verdicts: self.verdicts(),
            interfaces,
            excluded: exclude::EXCLUSIONS.iter().zip(self.tally.total.excluded_by).map(named).collect(),
            rejected: self.tally.total.rejected,
            tables: census.tables.iter().map(Table::from).collect(),
            drains: Drains {
                count: self.tally.drains,
                seconds_total: self.tally.drain_time.as_secs_f64(),
                last_seconds: self.tally.last_drain.as_secs_f64(),
            },
            sum_rule: self.sum_rule(),
            flow_logs: self.flow_logs(),
            losses: self.losses(&total, report.as_ref()),
            journal: Journal { errors: self.durable.errors, failing: self.durable.is_failing() },
            clock_steps: self.tally.clock_steps,
            other_frees: report.map(|report| report.other_frees.into_iter().collect()).unwrap_or_default(),
        })
    }

    fn host_identity(&self) -> Host {
        Host {
            account_id: self.known.host.identity.account_id.clone(),
            region: self.known.host.identity.region.clone(),
            vpc_id: self.known.host.vpc_id.clone(),
            subnet_id: self.known.host.subnet_id.clone(),
            instance_id: self.known.host.instance_id.clone(),
        }
    }

    /// First those that are configured.
    fn flow_logs(&self) -> Vec<FlowLog> {
        let configured = self.pipeline.subscriptions.iter().map(|one| {
            let mut shown = flow_log(one.log(), one.made(), one.spool(), one.delivery());
            shown.waiting.unspooled_windows = one.waiting();
            shown
        });
        let removed = self.leftovers.iter().map(|it| {
            let shown = flow_log(&it.log, it.made, &it.spool, Some(&it.delivery));
            FlowLog { removed: true, ..shown }
        });
        configured.chain(removed).collect()
    }

    /// One for each name, by index, and what all of them, also those that are gone, have seen.
    fn interfaces(&self, census: &Census) -> (Vec<Interface>, Side) {
        let hooks: BTreeMap<_, _> = self.capture.hooks().map(|(ifindex, hook, at)| (ifindex, (hook, at))).collect();
        let (here, gone): (Vec<_>, Vec<_>) = self.tracked.iter().partition(|(ifindex, _)| hooks.contains_key(ifindex));
        let mut interfaces: BTreeMap<&str, Interface> = BTreeMap::new();
        // One that is gone, whose last packets are still to be logged, gives way to another of its name.
        for (&ifindex, named) in gone.into_iter().chain(here) {
            let flows = census.flows.get(&ifindex).copied().unwrap_or_default();
            interfaces.insert(&named.name, self.interface(ifindex, named, hooks.get(&ifindex), flows));
        }
        let mut total = self.published();
        for totals in self.pipeline.seen().chain(&census.totals) {
            total.add(totals);
            let Some(named) = self.tracked.get(&totals.ifindex) else { continue };
            if let Some(interface) = interfaces.get_mut(named.name.as_str()).filter(|it| it.id == named.id) {
                interface.side(totals.direction).add(totals);
            }
        }
        let mut interfaces: Vec<Interface> = interfaces.into_values().collect();
        interfaces.sort_by_key(|interface| interface.ifindex);
        (interfaces, total)
    }

    /// As far as it is published.
    fn interface(&self, ifindex: u32, named: &Named, hook: Option<&(Hook, [Place; 2])>, flows: u64) -> Interface {
        let [mut ingress, mut egress] = self.tally.sides.get(&named.id).cloned().unwrap_or_default();
        let position = |place: Place| place.map(|(at, of)| Position { at, of });
        if let Some((_, [on_ingress, on_egress])) = hook {
            (ingress.position, egress.position) = (position(*on_ingress), position(*on_egress));
        }
        Interface {
            name: named.name.clone(),
            ifindex,
            id: named.id.clone(),
            hook: hook.map(|(hook, _)| hook_name(*hook).to_owned()),
            ingress,
            egress,
            flows,
        }
    }

    /// Of all interfaces, in slices that are published.
    fn published(&self) -> Side {
        let sum = &self.tally.total;
        let mut side = Side::default();
        side.add(&InterfaceTotals {
            ifindex: 0,
            direction: Direction::Ingress,
            seen: sum.seen,
            non_ip: sum.non_ip,
            unparsable: [sum.unparsable, Total::default(), Total::default()],
            skipped: sum.skipped,
            drops_skipped: sum.drops_skipped,
            buffers: Buffers::default(),
        });
        side
    }

    fn sum_rule(&self) -> SumRule {
        SumRule {
            windows: self.tally.windows,
            windows_with_error: self.tally.with_error,
            error_packets: narrow(self.tally.total.sum_error.0),
            error_bytes: narrow(self.tally.total.sum_error.1),
            last: self.tally.last,
        }
    }

    /// Every cause has its count here: the compiler sees to it.
    fn losses(&self, total: &Side, report: Option<&DropReport>) -> Vec<Loss> {
        let of_drops = |name: &str| {
            let lost = report.and_then(|report| report.lost.iter().find(|(cause, _)| *cause == name));
            lost.map_or(0, |(_, count)| *count)
        };
        let unparsable = total.unparsable.causes().map(|(_, total)| total.packets);
        let deliveries = self.pipeline.subscriptions.iter().filter_map(Subscription::delivery);
        let missed = deliveries.map(Delivery::missed).fold(self.leftovers.missed(), Missed::add);
        let sums = &self.tally.total;
        let count = |cause: Cause| match cause {
            Cause::TablesFull => total.skipped.packets,
            Cause::Unparsable => unparsable.iter().sum(),
            Cause::Unhooked => self.tally.unhooked,
            Cause::DropsFull => total.drops_skipped.packets,
            Cause::DropsUnparsable => of_drops("unparsable"),
            Cause::DropsWithoutInterface => of_drops("no_interface"),
            Cause::DropsUnmatched => sums.unmatched.packets,
            Cause::Unnamed => sums.unnamed,
            Cause::Unspooled => sums.lost_records,
            Cause::SpoolFull => missed.dropped,
            Cause::SpoolDamaged => missed.corrupt,
            Cause::NotTaken => missed.dead_lettered,
            Cause::JournalFailed => self.durable.errors,
            Cause::ClockStepped => self.tally.clock_steps,
        };
        Cause::all().map(|cause| cause.loss(count(cause))).collect()
    }
}

/// Which of how many; none is not there.
type Place = Option<(u32, u32)>;

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Tcx => "tcx",
        Hook::Clsact => "clsact",
    }
}

/// Of one that is configured, and with no window in memory alone.
fn flow_log(log: &flow_log::FlowLog, made: Made, spool: &Spool, delivery: Option<&Delivery>) -> FlowLog {
    let segments = spool.segments();
    let oldest = segments.iter().map(|segment| segment.window.end).min();
    FlowLog {
        id: log.id.clone(),
        removed: false,
        destination_type: log.destination.kind().to_owned(),
        destination: log.destination.to_string(),
        interval: log.interval,
        traffic_type: log.traffic_type.name().to_owned(),
        made,
        delivery: delivery.map(Delivery::status).unwrap_or_default(),
        waiting: Waiting {
            windows: segments.len() as u64,
            records: segments.iter().map(|segment| segment.records).sum(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            bytes_max: log.spool_bytes_max,
            lag_seconds: oldest.map_or(0, |end| now().saturating_sub(end).max(0).cast_unsigned()),
            unspooled_windows: 0,
        },
    }
}

impl From<&crate::capture::TableUse> for Table {
    fn from(of: &crate::capture::TableUse) -> Self {
        Self { name: of.name.to_owned(), entries: of.entries, capacity: of.capacity, bytes: of.bytes }
    }
}
