//! What the service manager is told: ready, reloading, stopping, a line of status, and that the loop turns.
//! Must not know what the status says, nor what a turn of the loop does.
//! Always: without a manager nothing happens; the watchdog is fed only because somebody says that the loop has turned.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Between two lines of status: windows of a second would write one each.
const PAUSE: Duration = Duration::from_secs(10);
/// What it takes to end beside the deliveries: a drain, and the files of what is open.
const ENDING: Duration = Duration::from_secs(30);

pub(crate) struct Notify {
    /// How often the watchdog wants to be fed. None: there is none.
    feed_every: Option<Duration>,
    fed: Instant,
    status: String,
    told: Instant,
}

impl Notify {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        // As sd_watchdog_enabled(3) says: twice as often as it bites.
        let feed_every = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Self { feed_every, fed: now, status: String::new(), told: now }
    }

    /// Starting is over; the watchdog counts from here.
    pub(crate) fn ready(&mut self, status: String) {
        tell(&[NotifyState::Ready, NotifyState::Status(&line(&status))]);
        (self.status, self.told) = (status, Instant::now());
    }

    pub(crate) fn turned(&mut self) {
        if self.feed_every.is_some_and(|pause| self.fed.elapsed() >= pause) {
            tell(&[NotifyState::Watchdog]);
            self.fed = Instant::now();
        }
    }

    /// Whether the status was said long enough ago.
    pub(crate) fn wants_status(&self) -> bool {
        self.told.elapsed() >= PAUSE
    }

    /// Says how it is, if it is another way now.
    pub(crate) fn status(&mut self, status: String) {
        self.told = Instant::now();
        if status != self.status {
            tell(&[NotifyState::Status(&line(&status))]);
            self.status = status;
        }
    }

    pub(crate) fn reloading(&self) {
        // Which reload this is, for managers that wait for its end.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// To be followed by the end, which may take so long.
    pub(crate) fn stopping(&self, why: &str, deliveries: Duration) {
        let limit = u32::try_from((deliveries + ENDING).as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Stopping, NotifyState::Status(why), NotifyState::ExtendTimeoutUsec(limit)]);
    }
}

/// The protocol ends a field at the end of a line.
fn line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" ")
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        // It will notice that it hears nothing, and knows what to do then.
        tracing::debug!(%error, "cannot tell the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(line("2 interfaces\nREADY=1"), "2 interfaces READY=1");
    }

    #[test]
    fn a_status_is_not_said_again_soon() {
        let mut notify = Notify::new();
        notify.told -= PAUSE;
        assert!(notify.wants_status());
        notify.ready("a".to_owned());
        assert!(!notify.wants_status());
    }
}
