//! A stop while windows wait for room on the disk: deliveries make some. What finds none by then is in the journal, or
//! lost, and that is said.
#![forbid(unsafe_code)]

use super::{Daemon, TICK};
use crate::cli::Failure;
use crate::deliver::Delivery;
use crate::subscription::Subscription;
use std::time::Instant;

impl Daemon {
    /// Waits until `deadline` at most, and only if something waits for room.
    pub(super) fn make_room(&mut self, deadline: Instant) -> Result<(), Failure> {
        if self.pipeline.waiting() == 0 {
            return Ok(());
        }
        self.pipeline.subscriptions.iter().filter_map(Subscription::delivery).for_each(Delivery::flush);
        loop {
            let summary = self.pipeline.try_again();
            self.durable.forget(&summary.published);
            self.tally.total.records += summary.records;
            if summary.waiting == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return self.say_left(summary.waiting);
            }
            std::thread::sleep(TICK);
        }
    }

    fn say_left(&self, windows: u64) -> Result<(), Failure> {
        // With errors it may lack some of what a window had.
        let is_whole = self.durable.errors == 0;
        let waiting = |one: &Subscription| if is_whole { one.only_in_memory() } else { one.waiting_records() };
        let lost: u64 = self.pipeline.subscriptions.iter().map(waiting).sum();
        if lost == 0 {
            tracing::warn!(windows, "no room in the spool: left in the journal for the next start");
            return Ok(());
        }
        let directory = self.agent.state_directory.display();
        Err(Failure::Run(format!("lost up to {lost} records of {windows} windows: no room in {directory}")))
    }
}
