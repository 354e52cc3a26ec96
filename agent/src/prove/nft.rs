//! The independent counter: an nftables table of our own, in a child that holds it open.
//! Must not know what is compared.
//! Always: chains only count and accept; the kernel takes the table away when the child ends, and the child ends when
//! our end of its pipe closes, however we end.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::Key;
use super::nft_json::{self, Counters};
use crate::capture::flow::{Direction, Total};
use crate::capture::interfaces::Interface;

/// A listing takes milliseconds.
const LIMIT: Duration = Duration::from_secs(10);
const ETHERNET_LEN: u64 = 14;
/// The smallest Ethernet frame has 60 bytes without its checksum. Shorter packets may be padded to that.
const SHORT_MAX: u64 = 45;
const LIST: &str = "list table";
/// Where they are to be found: not everybody's PATH has them.
const SYSTEM_PATHS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

#[derive(Debug, thiserror::Error)]
pub(super) enum NftError {
    #[error("there is no nft here: install nftables")]
    Missing,
    #[error("nft was not allowed to count: run as root, or with CAP_NET_ADMIN")]
    Denied,
    #[error("nft cannot count: {0}")]
    Failed(String),
}

/// What the child said.
enum Said {
    Listing(String),
    Error(String),
    Ended,
}

pub(super) struct Nft {
    child: Child,
    /// Closed before the child is waited for.
    commands: Option<ChildStdin>,
    said: Receiver<Said>,
    table: String,
    links: BTreeMap<u32, u64>,
}

/// A counter's name, and its chain's.
fn name(key: Key) -> String {
    let letter = if key.direction == Direction::Ingress { 'i' } else { 'e' };
    format!("{letter}{}", key.ifindex)
}

/// The counter, and how the padding of short packets is found out: how many there were of each length that their IP header
/// gives, and their bytes.
fn rules(table: &str, interface: &Interface, key: Key) -> String {
    // Behind all programs of traffic control on ingress, and before them on egress: there ours is the next to come.
    let (hook, priority) = match key.direction {
        Direction::Ingress => ("ingress", i32::MIN),
        Direction::Egress => ("egress", i32::MAX),
    };
    let (name, device) = (name(key), &interface.name);
    let mut text = format!(
        "add counter {table} {name}; add chain {table} {name} {{ type filter hook {hook} device \"{device}\" \
         priority {priority}; policy accept; }}; add rule {table} {name} counter name {name}"
    );
    for (short, field, first, last) in [("4", "ip length", 20, SHORT_MAX), ("6", "ip6 length", 0, SHORT_MAX - 40)] {
        let set = format!("{name}_{short}");
        let _ = write!(
            text,
            "; add set {table} {set} {{ typeof {field}; size 64; flags dynamic; }}; \
             add rule {table} {name} {field} {first}-{last} update @{set} {{ {field} counter }}"
        );
    }
    text + "\n"
}

impl Nft {
    /// Begins to count.
    pub(super) fn start(interfaces: &[Interface]) -> Result<Self, NftError> {
        let path = std::env::var("PATH").unwrap_or_default();
        let spawned = Command::new("nft")
            .args(["--json", "--interactive"])
            .env("PATH", format!("{path}:{SYSTEM_PATHS}"))
            .env("LC_ALL", "C")
            // The terminal's Ctrl-C is for us: the last look is still to come.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|error| match error.kind() {
            ErrorKind::NotFound => NftError::Missing,
            _ => NftError::Failed(error.to_string()),
        })?;
        let (sender, said) = channel();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            listen(out, sender.clone(), Said::Listing);
            listen(err, sender, Said::Error);
        }
        let commands = child.stdin.take();
        let table = format!("netdev flowlogd_prove_{}", std::process::id());
        let links = interfaces.iter().map(|it| (it.index, if it.bare { 0 } else { ETHERNET_LEN })).collect();
        let mut nft = Self { child, commands, said, table, links };
        nft.command(&format!("add table {} {{ flags owner; }}\n", nft.table))?;
        // A quote would end the name.
        for interface in interfaces.iter().filter(|interface| !interface.name.contains('"')) {
            for key in Key::both(interface.index) {
                nft.command(&rules(&nft.table, interface, key))?;
            }
        }
        // Where nothing can be counted, the counter is missing in what is read. But the table must be there.
        nft.read()?;
        Ok(nft)
    }

    fn command(&mut self, line: &str) -> Result<(), NftError> {
        let written = self.commands.as_mut().map(|pipe| pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush()));
        match written {
            Some(Ok(())) => Ok(()),
            _ => Err(NftError::Failed("it has ended".to_owned())),
        }
    }

    /// Packets and bytes behind the link-layer header, without padding.
    pub(super) fn read(&mut self) -> Result<BTreeMap<Key, Total>, NftError> {
        self.command(&format!("{LIST} {}\n", self.table))?;
        let mut first = None;
        loop {
            match self.said.recv_timeout(LIMIT) {
                Ok(Said::Listing(line)) => {
                    let counters = nft_json::parse(&line).map_err(|why| NftError::Failed(why.to_string()))?;
                    return Ok(self.totals(&counters));
                }
                Ok(Said::Error(line)) if line.contains("not permitted") => return Err(NftError::Denied),
                // Below an error is the command that it is of. Whatever else failed is missing in the listing.
                Ok(Said::Error(line)) if line.starts_with(LIST) => return Err(failed(first)),
                Ok(Said::Error(line)) => first = first.or(Some(line)),
                Ok(Said::Ended) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {
                    return Err(failed(first));
                }
            }
        }
    }

    fn totals(&self, counters: &Counters) -> BTreeMap<Key, Total> {
        let all = self.links.iter().flat_map(|(&index, &link)| Key::both(index).map(|key| (key, link)));
        // On ingress the kernel has taken the link-layer header off by then.
        let link_of = |key: Key, link| if key.direction == Direction::Ingress { 0 } else { link };
        all.filter_map(|(key, link)| Some((key, counters.behind(&name(key), link_of(key, link))?))).collect()
    }
}

fn failed(first: Option<String>) -> NftError {
    NftError::Failed(first.unwrap_or_else(|| "it does not answer".to_owned()))
}

fn listen(stream: impl Read + Send + 'static, sender: Sender<Said>, said: fn(String) -> Said) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(said(line)).is_err() {
                return;
            }
        }
        let _ = sender.send(Said::Ended);
    });
}

impl Drop for Nft {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
