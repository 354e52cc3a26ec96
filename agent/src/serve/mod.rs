//! The agent's window: a thread that answers HTTP on a Unix socket, read-only, with what the daemon's thread tells it.
//! Must not know what is in a snapshot nor how it is found.
//! Always: the daemon's thread never waits for a client; nothing is computed and no thread wakes when nobody asks; a
//! place that cannot be opened is said once, and the agent runs on.
#![forbid(unsafe_code)]

pub(crate) mod client;
mod http;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::SigSet;
use tokio::sync::{Semaphore, oneshot};

use crate::status::Snapshot;
use socket::Bound;

/// As many clients at a time; others wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// Questions that may wait for the daemon. A loop that stands must not collect them.
const ASKS: usize = 64;
/// The daemon looks every 50 ms, and a drain of a large table on a busy host takes a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Or why it cannot be found out.
pub(crate) type Told = Result<Arc<Snapshot>, String>;

/// What the daemon's thread can be asked. Whoever asks may be gone by the time of the answer.
pub(crate) enum Ask {
    Status(oneshot::Sender<Told>),
}

/// The daemon's end. Never blocks.
pub(crate) struct Asks(mpsc::Receiver<Ask>);

impl Asks {
    /// What was asked since the last look.
    pub(crate) fn take(&self) -> impl Iterator<Item = Ask> {
        self.0.try_iter()
    }
}

/// The other end.
#[derive(Clone)]
struct Daemon {
    asks: mpsc::SyncSender<Ask>,
    patience: Duration,
}

impl Daemon {
    /// None: the daemon's loop stands.
    async fn snapshot(&self) -> Option<Told> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Status(answer)).ok()?;
        tokio::time::timeout(self.patience, answered).await.ok()?.ok()
    }
}

/// Where to be asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// None: nowhere.
    pub(crate) socket: Option<PathBuf>,
}

/// Answers until it is dropped, which removes the socket.
pub(crate) struct Server {
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Server {
    /// Opens what can be opened.
    pub(crate) fn start(places: Places) -> (Self, Asks) {
        let (sender, receiver) = mpsc::sync_channel(ASKS);
        let daemon = Daemon { asks: sender, patience: PATIENCE };
        let bound = places.socket.and_then(|path| {
            Bound::open(&path).map_err(|error| tracing::warn!("nobody can ask this agent: {error}")).ok()
        });
        let running = bound.and_then(|bound| {
            spawn(bound, daemon).map_err(|error| tracing::warn!("nobody can ask this agent: {error}")).ok()
        });
        (Self { running }, Asks(receiver))
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

fn spawn(bound: Bound, daemon: Daemon) -> io::Result<(oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new().name("serve".to_owned()).spawn(move || {
        // Signals are for the main thread.
        let _ = SigSet::all().thread_block();
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => {}
                () = accept(&bound, daemon) => {}
            }
        });
    })?;
    Ok((stop, thread))
}

async fn accept(bound: &Bound, daemon: Daemon) {
    let listener = match bound.listener() {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!("nobody can ask this agent: {error}"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let daemon = daemon.clone();
                tokio::spawn(async move {
                    http::serve(stream, daemon).await;
                    drop(place);
                });
            }
            // Out of descriptors: that passes, and must not become a busy loop.
            Err(error) => {
                tracing::debug!(%error, "cannot take a client");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
