//! Traffic sources. Each is bounded and returns when its packets are sent.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::{Background, Netns};
use crate::wait_for;

/// Bounds the packets in flight below every queue on the path: a packet lost
/// behind the agent would be counted there and not at the observer.
const TCP_WINDOW: &str = "128K";

pub fn ping(ns: &Netns, target: &str, count: u32) -> Result<()> {
    ns.sh(&format!("ping -n -q -c {count} -i 0.2 -W 5 {target}"))?;
    Ok(())
}

/// An iperf3 server for one test, ready to accept.
pub fn iperf_server(ns: &Netns, port: u16) -> Result<Background> {
    let server = ns.spawn(&format!("iperf3 -s -1 -p {port}"))?;
    wait_for("iperf3 server", Duration::from_secs(5), || {
        let listening = ns.sh(&format!("ss -Htln sport = :{port}"))?;
        Ok((!listening.trim().is_empty()).then_some(()))
    })?;
    Ok(server)
}

/// One iperf3 client line; `extra` sets its length and direction.
pub fn iperf_line(target: &str, port: u16, extra: &str) -> String {
    format!("iperf3 -c {target} -p {port} {extra}")
}

/// A TCP transfer between `client` and `server` of bounded window.
pub fn iperf_tcp(client: &Netns, server: &Netns, target: &str, port: u16, extra: &str) -> Result<()> {
    let listener = iperf_server(server, port)?;
    client.sh(&iperf_line(target, port, &format!("-w {TCP_WINDOW} {extra}")))?;
    listener.finish(Duration::from_secs(10))?;
    Ok(())
}

/// Receives datagrams and counts them, so that senders can wait for arrival.
#[derive(Debug)]
pub struct Sink {
    pub address: SocketAddr,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    pub fn new(ns: &Netns, address: &str, port: u16) -> Result<Self> {
        let address = SocketAddr::new(address.parse::<IpAddr>()?, port);
        let socket = ns.enter(|| Ok(UdpSocket::bind(address)?))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (received, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, done) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !done.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Release);
                }
            }
        });
        Ok(Self { address, received, stop, thread: Some(thread) })
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Waits until at most `window` of `sent` datagrams are still on the way.
    fn keep_up(&self, sent: u64, window: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.received() + window < sent {
            ensure!(Instant::now() < deadline, "{} of {sent} datagrams arrived", self.received());
            thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends `count` datagrams of `size` bytes from one source port.
pub fn udp(ns: &Netns, source: &str, sport: u16, sink: &Sink, size: usize, count: u64) -> Result<()> {
    let source = SocketAddr::new(source.parse()?, sport);
    let start = sink.received();
    ns.enter(|| {
        let socket = UdpSocket::bind(source)?;
        let payload = vec![0; size];
        for sent in 1..=count {
            socket.send_to(&payload, sink.address)?;
            sink.keep_up(start + sent, 8)?;
        }
        sink.keep_up(start + count, 0)
    })
}

/// Sends datagrams of `size` bytes from one source port until told to stop.
pub fn udp_until(ns: &Netns, source: &str, sport: u16, sink: &Sink, size: usize, stop: &AtomicBool) -> Result<()> {
    let source = SocketAddr::new(source.parse()?, sport);
    let mut sent = sink.received();
    ns.enter(|| {
        let socket = UdpSocket::bind(source)?;
        let payload = vec![0; size];
        while !stop.load(Ordering::Relaxed) {
            socket.send_to(&payload, sink.address)?;
            sent += 1;
            sink.keep_up(sent, 8)?;
        }
        sink.keep_up(sent, 0)
    })
}

/// Sends `count` buffers of `segments` × `size` bytes by UDP segmentation
/// offload: one system call and one buffer, `segments` datagrams on the wire.
pub fn udp_gso(ns: &Netns, source: &str, sport: u16, sink: &Sink, size: u16, segments: u16, count: u64) -> Result<()> {
    let source = SocketAddr::new(source.parse()?, sport);
    let start = sink.received();
    ns.enter(|| {
        let socket = UdpSocket::bind(source)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(size)).context("UDP_SEGMENT")?;
        let payload = vec![0; usize::from(size) * usize::from(segments)];
        for buffer in 1..=count {
            socket.send_to(&payload, sink.address)?;
            sink.keep_up(start + buffer * u64::from(segments), 0)?;
        }
        Ok(())
    })
}

/// Sends one datagram from each of `ports`, a flow each, `rounds` times.
pub fn udp_flows(
    ns: &Netns,
    source: &str,
    ports: std::ops::Range<u16>,
    sink: &Sink,
    size: usize,
    rounds: u64,
) -> Result<()> {
    let source: IpAddr = source.parse()?;
    let start = sink.received();
    ns.enter(|| {
        let payload = vec![0; size];
        let mut sent = start;
        for _ in 0..rounds {
            for port in ports.clone() {
                let socket = UdpSocket::bind(SocketAddr::new(source, port))?;
                socket.send_to(&payload, sink.address)?;
                sent += 1;
                sink.keep_up(sent, 32)?;
            }
        }
        sink.keep_up(sent, 0)
    })
}
