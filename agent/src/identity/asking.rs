//! Asks the metadata service again while the agent runs: because it did not answer at the start, or for an interface that
//! came later. One thread a question, which nobody waits for.
//! Must not know what the answer is for.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use super::imds::{self, Imds, ProbeError};
use super::mac::Mac;

/// From one question to the next.
const PAUSE: Duration = Duration::from_secs(5);
/// Questions for an address: a new interface is known within seconds; most addresses are of no interface of EC2.
const TRIES: u8 = 12;
/// An instance has far fewer interfaces; a host of containers has more of its own.
const MISSING_MAX: usize = 1024;

type Ask = fn() -> Result<Imds, ProbeError>;

pub(crate) struct Asking {
    ask: Ask,
    /// It has never answered.
    is_silent: bool,
    /// Addresses that no answer had, and how often that was tried. Few.
    missing: BTreeMap<Mac, u8>,
    under_way: Option<Receiver<Result<Imds, ProbeError>>>,
    next: Instant,
}

impl Asking {
    pub(crate) fn new(is_silent: bool, now: Instant) -> Self {
        Self { ask: || imds::fetch(None), is_silent, missing: BTreeMap::new(), under_way: None, next: now }
    }

    /// No answer has this address.
    pub(crate) fn miss(&mut self, mac: Mac) {
        if self.missing.len() < MISSING_MAX {
            self.missing.entry(mac).or_insert(0);
        }
    }

    /// To be called again and again. What is new.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Imds> {
        let Some(answer) = &self.under_way else {
            if now >= self.next && (self.is_silent || !self.missing.is_empty()) {
                self.start();
            }
            return None;
        };
        let answer = match answer.try_recv() {
            Err(TryRecvError::Empty) => return None,
            answer => answer,
        };
        self.under_way = None;
        self.next = now + PAUSE;
        match answer.ok()? {
            Ok(imds) => {
                self.is_silent = false;
                self.missing.retain(|mac, tries| {
                    *tries += 1;
                    *tries < TRIES && !imds.interfaces.contains_key(mac)
                });
                Some(imds)
            }
            Err(error) => {
                tracing::debug!("instance metadata: {error}");
                None
            }
        }
    }

    fn start(&mut self) {
        let (send, receive) = channel();
        let ask = self.ask;
        let thread = std::thread::Builder::new().name("metadata".to_owned()).spawn(move || drop(send.send(ask())));
        self.under_way = thread.is_ok().then_some(receive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::imds::Interface;

    const KNOWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const UNKNOWN: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn knows_one() -> Result<Imds, ProbeError> {
        Ok(Imds { interfaces: BTreeMap::from([(KNOWN, Interface::default())]), ..Imds::default() })
    }

    /// Questions and answers of an hour.
    fn hour(asking: &mut Asking, start: Instant) -> (usize, usize) {
        let (mut questions, mut answers) = (0, 0);
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            answers += usize::from(asking.poll(now).is_some());
            if asking.under_way.is_some() {
                questions += 1;
                while asking.under_way.is_some() {
                    answers += usize::from(asking.poll(now).is_some());
                }
            }
        }
        (questions, answers)
    }

    #[test]
    fn asks_until_it_is_told() {
        let start = Instant::now();
        let mut asking = Asking { ask: knows_one, ..Asking::new(false, start) };
        assert_eq!(hour(&mut asking, start), (0, 0));
        let mut asking = Asking { ask: knows_one, ..Asking::new(true, start) };
        assert_eq!(hour(&mut asking, start), (1, 1));
        asking.miss(KNOWN);
        assert_eq!(hour(&mut asking, start + PAUSE), (1, 1));
        // An address of no interface of EC2.
        asking.miss(UNKNOWN);
        assert_eq!(hour(&mut asking, start + 2 * PAUSE), (12, 12));
    }

    #[test]
    fn asks_on_while_nobody_answers() {
        let start = Instant::now();
        let mut asking = Asking { ask: || Err(ProbeError::Silent), ..Asking::new(true, start) };
        assert_eq!(hour(&mut asking, start), (720, 0));
    }
}
