//! When the kernel is drained, when a slice ends, and what is said of it then.
//! Always: what was drained is in the journal before the kernel forgets it; a slice is closed after its last epoch.
#![forbid(unsafe_code)]

use super::{Daemon, LATE, NANOSECONDS, clocks, now, now_ms};
use crate::cli::Failure;
use crate::fault;
use crate::journal::{CARRIED, Frame};
use crate::pipeline::{Slice, Summary};
use crate::window::window_at;
use std::time::Instant;

impl Daemon {
    /// A new window's journal, with the names that its flows will go by, and with what it has from the one before it.
    pub(super) fn begin(&mut self) {
        self.durable.begin(self.window);
        self.durable.name(&self.tracked);
        if let Some(drained) = self.pipeline.carried() {
            self.durable.append(&Frame { generation: CARRIED, epoch: 0, drained });
        }
    }

    /// Drains when it is time to, closes the window when it has ended.
    pub(super) fn tick(&mut self, stop: bool) -> Result<(), Failure> {
        fault::stand_still("loop-turns");
        let (wall, monotonic) = clocks();
        if let Some(step) = self.wall.step(wall, monotonic) {
            self.step(step, wall)?;
        }
        self.capture.flush_log();
        let now = now();
        let (start, last) = self.window;
        // A clock set back before the slice ends it as well: a slice never spans such a step. After a cut a slice may
        // begin with the next second.
        let ended = now > last || now + 1 < start;
        if stop || ended {
            self.drain(0)?;
            let (next, next_last) = window_at(now, self.interval);
            let late = now - last;
            if ended && late > LATE {
                // We were stopped: what was counted meanwhile keeps its times.
                tracing::warn!(seconds = late, window = start, "the window ends late and is longer");
            }
            let end = match ended {
                true if late > LATE => now - 1,
                true => last,
                false => now,
            };
            let slice = self.close(start, end, stop || now + 1 < start);
            // Slices never overlap, unless the clock itself goes back.
            self.window = (if now < start { now } else { next.max(start).max(end + 1) }, next_last);
            if !stop {
                self.begin();
            }
            self.publish(&slice);
        } else if self.durable.is_full() {
            self.cut(now)?;
        } else if !self.settings.hold_drain && self.capture.is_crowded() {
            self.drain(0)?;
        }
        self.notify.turned();
        if self.notify.wants_status() {
            self.notify.status(self.standing());
        }
        Ok(())
    }

    /// Ends the slice before its time: a journal is bounded, and flow logs come and go. Another goes on to its end.
    pub(super) fn cut(&mut self, now: i64) -> Result<(), Failure> {
        self.drain(0)?;
        let (start, last) = self.window;
        let slice = self.close(start, now, false);
        // Its last second is the window's too, which ends with it: the next one must not have it again.
        let next = if now < last { now.max(start) } else { now + 1 };
        self.window = (next, window_at(next, self.interval).1);
        self.begin();
        self.publish(&slice);
        Ok(())
    }

    /// The wall clock was stepped: all windows end where it was, and others begin where it is now, so that no record spans
    /// the step.
    pub(super) fn step(&mut self, step: i64, wall: i64) -> Result<(), Failure> {
        let before = (wall - step) / NANOSECONDS;
        tracing::warn!(seconds = step / NANOSECONDS, "the wall clock was stepped: the window ends early");
        self.tally.clock_steps += 1;
        self.drain(step)?;
        let (start, last) = self.window;
        let slice = self.close(start, before.clamp(start, last), true);
        let now = wall / NANOSECONDS;
        self.window = (now, window_at(now, self.interval).1);
        self.begin();
        self.publish(&slice);
        Ok(())
    }

    /// `stepped`: by how many nanoseconds the wall clock was stepped since the last tick. What was counted is in the
    /// journal before the kernel forgets it.
    pub(super) fn drain(&mut self, stepped: i64) -> Result<(), Failure> {
        let (pipeline, durable) = (&mut self.pipeline, &mut self.durable);
        let (generation, epoch) = (self.capture.generation().0, self.capture.epoch());
        let start = Instant::now();
        self.drained_ms = now_ms();
        self.is_filling = false;
        let drained = self.capture.drain_after_step(stepped, |drained| {
            let frame = Frame { generation, epoch, drained };
            durable.append(&frame);
            pipeline.absorb(frame.drained);
            Ok(())
        });
        self.tally.drained(start.elapsed());
        drained
    }

    /// Ends the slice and keeps it. To be published when the next one has begun, for its file goes then.
    pub(super) fn close(&mut self, start: i64, last: i64, ends: bool) -> Slice {
        let gaps = std::mem::take(&mut self.gaps);
        self.since_ms = self.drained_ms;
        let mut slice = self.pipeline.close((start, last), &self.tracked, gaps, ends);
        (slice.number, slice.file) = self.durable.close(slice.closing());
        for index in self.left.drain(..) {
            self.tracked.remove(&index);
        }
        slice
    }

    pub(super) fn publish(&mut self, slice: &Slice) {
        let summary = self.pipeline.publish(slice);
        self.tally.add(slice, &summary);
        self.tally.keep(&self.tracked.values().map(|named| named.id.as_str()).collect());
        self.account(&summary, slice.start);
    }

    /// Forgets what every flow log has, and says what went wrong.
    pub(super) fn account(&mut self, summary: &Summary, start: i64) {
        self.durable.forget(&summary.published);
        self.tally.windows += 1;
        if summary.sum_error != (0, 0) {
            self.tally.with_error += 1;
            let (packets, bytes) = summary.sum_error;
            tracing::error!(%packets, %bytes, window = start, "the sum rule does not hold: please report this");
        }
        if summary.skipped.packets > 0 {
            tracing::warn!(
                packets = summary.skipped.packets,
                window = start,
                "flows found no room, SKIPDATA written; raise --flow-table-slots or --overflow-slots"
            );
        }
        if summary.drops_skipped.packets > 0 {
            tracing::warn!(
                packets = summary.drops_skipped.packets,
                window = start,
                "rejected flows found no room, SKIPDATA written; raise --flow-table-slots"
            );
        }
        self.tally.total.add(summary);
        if summary.lost_records > 0 {
            tracing::error!(records = summary.lost_records, "given up: too many windows wait for room in the spool");
        }
        match &summary.error {
            // Once, until it works again.
            Some(error) if !std::mem::replace(&mut self.unspooled, true) => {
                tracing::error!(%error, "not spooled, waits in memory and will be tried again");
            }
            None if summary.waiting == 0 && std::mem::take(&mut self.unspooled) => {
                tracing::info!("the spool can be written again");
            }
            _ => {}
        }
    }
}
