//! Accepts connections in a namespace, each on a thread of its own there, and can go away and come back.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use nix::libc::linger;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Netns;
use crate::wait_for;

const POLL: Duration = Duration::from_millis(2);

/// Ended on drop, with its connections.
#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// What is wanted, and what is.
    open: AtomicBool,
    is_open: AtomicBool,
    ended: AtomicBool,
    connections: Mutex<Vec<Weak<TcpStream>>>,
}

/// Has the peer see a reset, not an end, once the last owner closes it.
pub fn reset(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

impl State {
    fn reset_all(&self) {
        for stream in self.connections.lock().expect("listener").drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = reset(&stream);
            // Its thread wakes up and closes it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn admit(&self, stream: TcpStream) -> Arc<TcpStream> {
        let stream = Arc::new(stream);
        let mut connections = self.connections.lock().expect("listener");
        connections.retain(|stream| stream.strong_count() > 0);
        connections.push(Arc::downgrade(&stream));
        stream
    }
}

impl Listener {
    /// `serve` has a connection until its end; an error closes it.
    pub fn start(
        ns: &Netns,
        address: SocketAddr,
        serve: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = File::open(ns.path())?;
        let first = ns.enter(|| bind(address))?;
        let address = first.local_addr()?;
        let state = Arc::<State>::default();
        state.open.store(true, Ordering::Release);
        state.is_open.store(true, Ordering::Release);
        let (accepting, serve) = (Arc::clone(&state), Arc::new(serve));
        let thread = thread::spawn(move || {
            // Threads that it starts are in the namespace too.
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("a namespace that was entered before");
            accept(&accepting, address, first, &serve);
        });
        Ok(Self { address, state, thread: Some(thread) })
    }

    /// Closed, it refuses connections and has reset those there were.
    pub fn set_open(&self, open: bool) -> Result<()> {
        self.state.open.store(open, Ordering::Release);
        wait_for("listener", Duration::from_secs(5), || {
            Ok((self.state.is_open.load(Ordering::Acquire) == open).then_some(()))
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept<F: Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static>(
    state: &Arc<State>,
    address: SocketAddr,
    first: TcpListener,
    serve: &Arc<F>,
) {
    let mut listener = Some(first);
    while !state.ended.load(Ordering::Acquire) {
        if !state.open.load(Ordering::Acquire) {
            listener = None;
            state.reset_all();
        } else if listener.is_none() {
            // Not at once, if the port is taken: asked again.
            listener = bind(address).ok();
        }
        state.is_open.store(listener.is_some(), Ordering::Release);
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((stream, _))) if stream.set_nonblocking(false).is_ok() => {
                let (stream, serve) = (state.admit(stream), Arc::clone(serve));
                thread::spawn(move || serve(&stream));
            }
            _ => thread::sleep(POLL),
        }
    }
    state.reset_all();
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
