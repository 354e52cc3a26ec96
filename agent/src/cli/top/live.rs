//! The live view: a thread asks the agent, this one draws and takes keys.
//! Must not know what is drawn, nor what keys do.
//! Always: the terminal is as it was when we end, also by a signal or a panic; an agent that does not answer is said in
//! the header, and asked again.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::keys::{Then, press};
use super::names::Names;
use super::rates::Rated;
use super::view::{View, draw};
use super::{ask, head};
use crate::cli::Failure;
use crate::flows::{Answer, Query};

/// More than anybody scrolls through; what is cut off has no rate when it comes up.
pub(super) const LIMIT: usize = 1000;
/// How often signals and answers are looked for.
const TICK: Duration = Duration::from_millis(100);

/// What to ask from now on. None: nothing.
type Order = Option<Query>;
type Answered = (Query, Result<Answer, String>);

pub(super) fn run(socket: &Path, query: Query, interval: Duration, rows: Option<usize>) -> Result<(), Failure> {
    // Before the screen is taken: what is wrong from the start is a line.
    let first = ask(socket, &query).map_err(|error| Failure::Run(error.to_string()))?;
    let failed = |what: &'static str| move |error: nix::errno::Errno| Failure::Run(format!("{what}: {error}"));
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
    // Before the other threads: they must not take them.
    mask.thread_block().map_err(failed("block signals"))?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(failed("signalfd"))?;
    let (orders, answers) = spawn(socket.to_owned(), query.clone(), interval)?;
    let (hostname, names, rated) = (head::hostname(), Names::read(), Some(Rated::new(None, first)));
    let shown = Some(query.filter.clone());
    let mut view = View { query, hostname, names, rated, shown, rows, ..View::default() };
    // With a hook that restores the terminal when we panic.
    let terminal = ratatui::try_init();
    let shown = terminal.and_then(|terminal| show(terminal, &mut view, &signals, &orders, &answers));
    let restored = ratatui::try_restore();
    shown.and(restored).map_err(|error| Failure::Run(format!("cannot use the terminal: {error}; try --once")))
}

fn show(
    mut terminal: ratatui::DefaultTerminal,
    view: &mut View,
    signals: &SignalFd,
    orders: &Sender<Order>,
    answers: &Receiver<Answered>,
) -> io::Result<()> {
    let mut is_new = true;
    loop {
        if is_new {
            terminal.draw(|frame| draw(view, frame))?;
        }
        is_new = false;
        if event::poll(TICK)? {
            is_new = true;
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match press(view, key) {
                    Then::Draw => {}
                    Then::Quit => return Ok(()),
                    Then::Ask => {
                        let _ = orders.send((!view.is_paused).then(|| view.query.clone()));
                    }
                }
            }
        }
        for (query, answer) in answers.try_iter() {
            is_new |= take(view, &query, answer);
        }
        if matches!(signals.read_signal(), Ok(Some(_))) {
            return Ok(());
        }
    }
}

/// Whether it changes anything: answers to what was asked before are late.
fn take(view: &mut View, query: &Query, answer: Result<Answer, String>) -> bool {
    if view.is_paused || *query != view.query {
        return false;
    }
    match answer {
        Ok(now) => {
            let last = view.rated.take().map(|rated| rated.answer);
            let is_same_filter = view.shown.replace(query.filter.clone()).is_some_and(|shown| shown == query.filter);
            // The same look may be sorted anew.
            if !is_same_filter || last.as_ref().is_some_and(|last| last.time_ms != now.time_ms) {
                view.before = last.filter(|_| is_same_filter);
            }
            view.rated = Some(Rated::new(view.before.as_ref(), now));
            view.error = None;
        }
        Err(why) => view.error = Some(why),
    }
    true
}

/// Asks until nobody listens any more.
fn spawn(socket: PathBuf, query: Query, interval: Duration) -> Result<(Sender<Order>, Receiver<Answered>), Failure> {
    let (orders, ordered) = channel();
    let (sender, answers) = channel();
    let work = move || {
        let mut order = Some(query);
        let mut next = Instant::now() + interval;
        loop {
            match ordered.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(other) => order = other,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            next = Instant::now() + interval;
            let Some(query) = order.clone() else { continue };
            let answer = ask(&socket, &query).map_err(|error| error.to_string());
            if sender.send((query, answer)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("ask".to_owned())
        .spawn(work)
        .map_err(|error| Failure::Run(format!("cannot start a thread: {error}")))?;
    Ok((orders, answers))
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::{answer, row};
    use super::*;
    use crate::capture::flow::Verdict;
    use crate::flows::{Sort, parse_filter};

    #[test]
    fn rates_go_on_over_errors_and_other_orders() {
        let mut view = View::default();
        let of = |time, packets| Ok(answer(0, time, vec![row(1, Verdict::Accept, packets)]));
        let rate = |view: &View| view.rated.as_ref().and_then(|rated| Some(rated.flows[0]?.packets));
        let query = Query::default();
        assert!(take(&mut view, &query, of(1000, 5)) && rate(&view).is_none());
        assert!(take(&mut view, &query, of(2000, 9)) && rate(&view) == Some(4.0));
        assert!(take(&mut view, &query, Err("gone".to_owned())) && view.error.is_some() && rate(&view) == Some(4.0));
        // The same look, for another order.
        view.query.sort = Sort::Packets;
        assert!(!take(&mut view, &query, of(9000, 9)), "late");
        let query = view.query.clone();
        assert!(take(&mut view, &query, of(2000, 9)) && rate(&view) == Some(4.0) && view.error.is_none());
        assert!(take(&mut view, &query, of(4000, 11)) && rate(&view) == Some(1.0));
        // Sums of another filter are no beginning.
        view.query.filter = parse_filter("port 443").unwrap();
        let query = view.query.clone();
        assert!(take(&mut view, &query, of(5000, 12)) && rate(&view).is_none());
        view.is_paused = true;
        assert!(!take(&mut view, &query, of(6000, 13)));
    }
}
