//! The agent's flows for whoever asks: one look at the tables for all who ask within a second.
//! Must not know how the tables are read, nor what is asked of the flows.
//! Always: the daemon looks at most once a second, and more rarely where a look takes long, however many ask, or go away
//! again; nothing is kept for longer than that when nobody asks.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{Ask, Daemon};
use crate::flows::{About, Picture};
use crate::pipeline::Open;

/// The daemon's thread scans the tables for a look, as for a drain, and copies what was drained before (`bench drain`).
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Of the time between two looks, at most one part in so many is spent on them.
const PARTS: u32 = 4;

/// Or why it cannot be found out.
pub(crate) type Looked = Result<Box<(About, Open)>, String>;

/// The last look.
#[derive(Clone, Default)]
pub(super) struct Looks(Arc<Mutex<Look>>);

#[derive(Default)]
struct Look {
    /// When the daemon was asked.
    at: Option<Instant>,
    /// How long it took, with the wait for the daemon.
    took: Duration,
    picture: Option<Arc<Picture>>,
}

impl Look {
    fn ends(&self) -> Option<Instant> {
        self.at.map(|at| at + EVERY.max(self.took * PARTS))
    }
}

impl Daemon {
    /// None: the daemon's loop stands.
    pub(super) async fn flows(&self) -> Option<Result<Arc<Picture>, String>> {
        let mut look = self.looks.0.lock().await;
        let is_fresh = look.ends().is_some_and(|end| Instant::now() < end);
        if let Some(picture) = look.picture.as_ref().filter(|_| is_fresh) {
            return Some(Ok(Arc::clone(picture)));
        }
        // Who asked before has gone away, or was told of an error.
        if let Some(end) = look.ends().filter(|_| is_fresh) {
            sleep_until(end).await;
        }
        let start = Instant::now();
        *look = Look { at: Some(start), ..Look::default() };
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Flows(answer))?;
        let (about, open) = match tokio::time::timeout(self.patience, answered).await.ok()?.ok()? {
            Ok(looked) => *looked,
            Err(why) => return Some(Err(why)),
        };
        let picture = Arc::new(Picture::new(about, open));
        (look.took, look.picture) = (start.elapsed(), Some(Arc::clone(&picture)));
        if let Some(end) = look.ends() {
            tokio::spawn(self.looks.clone().forget(end));
        }
        Some(Ok(picture))
    }
}

impl Looks {
    /// A picture of a million flows is 90 MB.
    async fn forget(self, end: Instant) {
        sleep_until(end).await;
        let mut look = self.0.lock().await;
        if look.ends().is_some_and(|ends| ends <= end) {
            look.picture = None;
        }
    }
}
