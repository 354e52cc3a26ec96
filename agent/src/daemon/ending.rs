//! How an agent ends: stopped, or handing over to another. What it leaves, and what it says.
//! Always: a hand-over detaches nothing.
#![forbid(unsafe_code)]

use super::tally::Tally;
use super::{Daemon, SETTLE};
use crate::capture::DropReport;
use crate::cli::Failure;
use crate::subscription::Subscription;
use std::time::Instant;

impl Daemon {
    /// Leaves what is not delivered to the next agent.
    pub(super) fn stop_deliveries(self) {
        // All at once: the other agent waits, and a call that is under way may take a while.
        std::thread::scope(|scope| {
            let deliveries = self.pipeline.subscriptions.into_iter().filter_map(Subscription::into_delivery);
            for delivery in deliveries.chain(self.leftovers.into_deliveries()) {
                scope.spawn(move || delivery.stop());
            }
        });
    }

    /// Delivers what there is time for, all at once. Returns why nobody reads it, if so.
    pub(super) fn finish_deliveries(self, deadline: Instant) -> Option<String> {
        let mut fatal = None;
        std::thread::scope(|scope| {
            for leftover in self.leftovers.into_deliveries() {
                scope.spawn(move || leftover.finish(deadline));
            }
            let finish = |one: Subscription| {
                let id = one.log().id.clone();
                let delivery = one.into_delivery()?;
                Some(scope.spawn(move || (id, delivery.finish(deadline))))
            };
            let finishing: Vec<_> = self.pipeline.subscriptions.into_iter().filter_map(finish).collect();
            for (id, finished) in finishing.into_iter().filter_map(|thread| thread.join().ok()) {
                if let Some(fault) = &finished.fatal {
                    fatal = Some(fault.message.clone());
                } else if finished.segments > 0 {
                    let (windows, records) = (finished.segments, finished.records);
                    let why = finished.fault.map_or("no time left".to_owned(), |fault| fault.message);
                    tracing::warn!(flow_log = %id, windows, records, why, "left in the spool for the next start");
                }
            }
        });
        fatal
    }

    /// Leaves to another agent what it finds in the kernel and in the journal. What the disk did not take, and is in our
    /// memory alone, goes into the spool now or is lost, and said: programs count on all the while.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let is_kept = self.durable.is_whole() && (self.pipeline.waiting() == 0 || self.durable.errors == 0);
        if is_kept {
            return Ok(());
        }
        self.tick(true)?;
        self.make_room(Instant::now() + SETTLE)
    }

    /// The closing line.
    pub(super) fn said(&self, report: Option<&DropReport>) -> String {
        let Tally { windows, with_error, total, .. } = &self.tally;
        let unmatched = total.unmatched.packets + self.pipeline.drops_waiting().packets;
        let lost: u64 = report.into_iter().flat_map(|report| &report.lost).map(|(_, count)| count).sum();
        let fields = [
            ("verdicts", u8::from(self.no_verdicts.is_none()).to_string()),
            ("windows", windows.to_string()),
            ("records", total.records.to_string()),
            ("seen_packets", total.seen.packets.to_string()),
            ("seen_bytes", total.seen.bytes.to_string()),
            ("excluded_packets", total.excluded.packets.to_string()),
            ("non_ip_packets", total.non_ip.packets.to_string()),
            ("unparsable_packets", total.unparsable.packets.to_string()),
            ("skipped_packets", total.skipped.packets.to_string()),
            ("skipped_bytes", total.skipped.bytes.to_string()),
            ("rejected_packets", total.rejected.packets.to_string()),
            ("rejected_bytes", total.rejected.bytes.to_string()),
            ("drops_unmatched_packets", unmatched.to_string()),
            ("drops_lost", lost.to_string()),
            ("drops_nested", report.map_or(0, |report| report.nested.iter().sum::<u64>()).to_string()),
            ("journal_errors", self.durable.errors.to_string()),
            ("clock_steps", self.tally.clock_steps.to_string()),
            ("sum_error_packets", total.sum_error.0.to_string()),
            ("sum_error_bytes", total.sum_error.1.to_string()),
            ("windows_with_error", with_error.to_string()),
        ];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        fields.join(" ")
    }
}

pub(super) fn say_ended(how: &str, said: &str, report: Option<DropReport>) {
    eprintln!("flowlogd {how}: {said}");
    let Some(report) = report else { return };
    let frees: Vec<String> = report.other_frees.iter().map(|(name, frees)| format!("{name}={frees}")).collect();
    tracing::debug!("frees that were no policy's: {}", frees.join(" "));
    let [first, second] = report.nested;
    tracing::debug!(first, second, "nested frees, by the program that was left out");
    for (cause, drops) in report.lost.iter().filter(|(_, drops)| *drops > 0) {
        tracing::warn!(cause, drops, "rejected packets that are not logged as such");
    }
}
