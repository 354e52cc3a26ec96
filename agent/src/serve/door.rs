//! Where clients come in: a Unix socket, or a loopback address.
//! Must not know what is answered.
//! Always: so many at a time; nobody from another host.
#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::socket::{Bound, SocketError};
use super::{Daemon, http};
use crate::config::Listen;

/// As many clients at a time; others wait in the kernel's queue.
pub(super) const CONNECTIONS: usize = 16;
/// Out of descriptors: that passes, and must not become a busy loop.
const PAUSE: Duration = Duration::from_secs(1);

/// What is answered at a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    All,
    Metrics,
}

#[derive(Debug)]
pub(super) enum Door {
    Socket(Bound),
    Loopback(TcpListener),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    // The cause is in the line itself and so must not also be the error's source, or it would print twice.
    #[error("cannot listen on {0}: {1}")]
    Loopback(SocketAddr, io::Error),
}

impl Door {
    pub(super) fn socket(path: &Path) -> Result<Self, SocketError> {
        Bound::open(path).map(Self::Socket)
    }

    pub(super) fn open(listen: &Listen) -> Result<Self, DoorError> {
        match listen {
            Listen::Socket(path) => Ok(Self::socket(path)?),
            Listen::Loopback(address) => {
                let listener = TcpListener::bind(address).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                });
                listener.map(Self::Loopback).map_err(|error| DoorError::Loopback(*address, error))
            }
        }
    }

    /// Answers whoever comes, for ever.
    pub(super) async fn answer(&self, offer: Offer, daemon: Daemon) {
        let answered = match self {
            Self::Socket(bound) => self.answer_socket(bound, offer, daemon).await,
            Self::Loopback(listener) => self.answer_loopback(listener, offer, daemon).await,
        };
        if let Err(error) = answered {
            tracing::warn!("nobody can ask this agent: {error}");
        }
    }

    async fn answer_socket(&self, bound: &Bound, offer: Offer, daemon: Daemon) -> io::Result<()> {
        let (listener, places) = (bound.listener()?, places());
        loop {
            let place = free(&places).await?;
            serve(listener.accept().await, place, offer, &daemon).await;
        }
    }

    async fn answer_loopback(&self, listener: &TcpListener, offer: Offer, daemon: Daemon) -> io::Result<()> {
        let (listener, places) = (tokio::net::TcpListener::from_std(listener.try_clone()?)?, places());
        loop {
            let place = free(&places).await?;
            serve(listener.accept().await, place, offer, &daemon).await;
        }
    }
}

fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

async fn free(places: &Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(places).acquire_owned().await.map_err(io::Error::other)
}

/// Takes a client in.
async fn serve<S, A>(accepted: io::Result<(S, A)>, place: OwnedSemaphorePermit, offer: Offer, daemon: &Daemon)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match accepted {
        Ok((stream, _)) => {
            let daemon = daemon.clone();
            tokio::spawn(async move {
                http::serve(stream, offer, daemon).await;
                drop(place);
            });
        }
        Err(error) => {
            tracing::debug!(%error, "cannot take a client in");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
