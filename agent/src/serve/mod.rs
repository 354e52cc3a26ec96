//! The agent's window: a thread that answers HTTP, read-only, with what the daemon's thread tells it, and that writes the
//! file for node_exporter.
//! Must not know what is in a snapshot nor how it is found.
//! Always: the daemon's thread never waits for a client; nothing is computed and no thread wakes when nobody asks; a
//! place that cannot be opened is said once, and the agent runs on.
#![forbid(unsafe_code)]

pub(crate) mod client;
mod door;
mod flows;
mod http;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
mod textfile;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use tokio::sync::oneshot;

use crate::config::Metrics;
use crate::status::Snapshot;
use door::{Door, Offer};
pub(crate) use flows::Looked;
use flows::Looks;

/// Questions that may wait for the daemon. A loop that stands must not collect them.
const ASKS: usize = 64;
/// The daemon looks at once, and a drain of a large table on a busy host takes a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Or why it cannot be found out.
pub(crate) type Told = Result<Arc<Snapshot>, String>;

/// What the daemon's thread can be asked. Whoever asks may be gone by the time of the answer.
pub(crate) enum Ask {
    Status(oneshot::Sender<Told>),
    /// The flows that are counted; costs the daemon a look at all of them.
    Flows(oneshot::Sender<Looked>),
}

/// The daemon's end, readable when something was asked. Never blocks.
pub(crate) struct Asks {
    asked: mpsc::Receiver<Ask>,
    bell: Arc<EventFd>,
}

impl Asks {
    /// What was asked since the last look.
    pub(crate) fn take(&self) -> impl Iterator<Item = Ask> {
        // Before the look, so that what is asked meanwhile is heard. It fails when nobody has rung.
        let _ = self.bell.read();
        self.asked.try_iter()
    }
}

impl AsFd for Asks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The other end.
#[derive(Clone)]
struct Daemon {
    asks: mpsc::SyncSender<Ask>,
    bell: Arc<EventFd>,
    patience: Duration,
    looks: Looks,
}

impl Daemon {
    /// With room for as many questions as may wait.
    fn new(room: usize, patience: Duration) -> nix::Result<(Self, Asks)> {
        let (asks, asked) = mpsc::sync_channel(room);
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        Ok((Self { asks, bell: Arc::clone(&bell), patience, looks: Looks::default() }, Asks { asked, bell }))
    }

    /// None: the daemon's loop stands.
    fn ask(&self, ask: Ask) -> Option<()> {
        self.asks.try_send(ask).ok()?;
        // Fails only when it has been rung 2^64 times unheard.
        let _ = self.bell.write(1);
        Some(())
    }

    /// None: the daemon's loop stands.
    async fn snapshot(&self) -> Option<Told> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Status(answer))?;
        tokio::time::timeout(self.patience, answered).await.ok()?.ok()
    }
}

/// Where to be asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// None: nowhere.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) metrics: Metrics,
}

/// Answers until it is dropped, which removes its sockets.
pub(crate) struct Server {
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Server {
    /// Opens what can be opened.
    pub(crate) fn start(places: Places) -> nix::Result<(Self, Asks)> {
        let (daemon, asks) = Daemon::new(ASKS, PATIENCE)?;
        let said = |what: &str, error: &dyn std::fmt::Display| tracing::warn!("{what}: {error}");
        let mut doors = Vec::new();
        if let Some(path) = &places.socket {
            let opened = Door::socket(path).map_err(|error| said("nobody can ask this agent", &error));
            doors.extend(opened.ok().map(|door| (door, Offer::All)));
        }
        if let Some(listen) = &places.metrics.listen {
            let opened = Door::open(listen).map_err(|error| said("no metrics", &error));
            doors.extend(opened.ok().map(|door| (door, Offer::Metrics)));
        }
        let running = if doors.is_empty() && places.metrics.textfile.is_none() {
            None
        } else {
            spawn(doors, places.metrics.textfile, daemon)
                .map_err(|error| said("nobody can ask this agent", &error))
                .ok()
        };
        Ok((Self { running }, asks))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn spawn(
    doors: Vec<(Door, Offer)>,
    textfile: Option<PathBuf>,
    daemon: Daemon,
) -> io::Result<(oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new().name("serve".to_owned()).spawn(move || {
        // Signals are for the main thread.
        let _ = SigSet::all().thread_block();
        let mut work: Vec<BoxFuture<()>> =
            doors.iter().map(|(door, offer)| door.answer(*offer, daemon.clone()).boxed()).collect();
        if let Some(path) = &textfile {
            work.push(textfile::keep(path, daemon.clone()).boxed());
        }
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => {}
                _ = join_all(work) => {}
            }
        });
    })?;
    Ok((stop, thread))
}
