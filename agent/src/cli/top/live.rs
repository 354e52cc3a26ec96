//! The live view: a thread asks the agent, this one draws and takes keys.
//! Must not know what is drawn, nor what keys do.
//! Always: the terminal is as it was when we end, also by a signal or a panic; we end with the terminal; an agent that does
//! not answer is said in the header, and asked again.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
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
/// Who was told to end and has not by then hangs in the terminal.
const GRACE: Duration = Duration::from_secs(1);

/// What to ask from now on. None: nothing.
type Order = Option<Query>;
type Answered = (Query, Result<Answer, String>);

pub(super) fn run(socket: &Path, query: Query, interval: Duration, rows: Option<usize>) -> Result<(), Failure> {
    // Before the screen is taken: what is wrong from the start is a line.
    let first = ask(socket, &query).map_err(|error| Failure::Run(error.to_string()))?;
    let ended = watch_signals()?;
    let tty =
        open_tty().map_err(|error| Failure::Run(format!("no terminal to take keys from: {error}; try --once")))?;
    let (orders, answers) = spawn(socket.to_owned(), query.clone(), interval)?;
    let (hostname, names, rated) = (head::hostname(), Names::read(), Some(Rated::new(None, first)));
    let shown = Some(query.filter.clone());
    let mut view = View { query, hostname, names, rated, shown, rows, ..View::default() };
    // With a hook that restores the terminal when we panic.
    let terminal = ratatui::try_init();
    let shown = terminal.and_then(|terminal| show(terminal, &tty, &mut view, &ended, &orders, &answers));
    let restored = ratatui::try_restore();
    match (shown, restored) {
        // Nobody is there to be told.
        (Ok(End::Gone), _) => Err(Failure::Silent),
        (Ok(End::Asked), Ok(())) => Ok(()),
        (Err(error), _) | (_, Err(error)) => Err(Failure::Run(format!("cannot use the terminal: {error}; try --once"))),
    }
}

/// Where keys come from, as crossterm has it.
fn open_tty() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    if stdin.is_terminal() { stdin.as_fd().try_clone_to_owned() } else { File::open("/dev/tty").map(OwnedFd::from) }
}

/// To be called before other threads are there: they must not take the signals.
fn watch_signals() -> Result<Arc<AtomicBool>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Run(format!("cannot watch for signals: {error}"));
    let mut mask = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
    mask.thread_block().map_err(|error| failed(&error))?;
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    let work = move || {
        let _ = mask.wait();
        flag.store(true, Ordering::Relaxed);
        thread::sleep(GRACE);
        let _ = ratatui::try_restore();
        std::process::exit(1);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(work).map_err(|error| failed(&error))?;
    Ok(ended)
}

/// Waits for a key, and not for long. False: the terminal is gone, of which crossterm would read for ever.
fn wait(tty: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(tty.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    Ok(!fds[0].revents().is_some_and(|found| found.intersects(gone)))
}

/// Why it is over.
enum End {
    Asked,
    Gone,
}

fn show(
    mut terminal: ratatui::DefaultTerminal,
    tty: &OwnedFd,
    view: &mut View,
    ended: &AtomicBool,
    orders: &Sender<Order>,
    answers: &Receiver<Answered>,
) -> io::Result<End> {
    let mut is_new = true;
    while !ended.load(Ordering::Relaxed) {
        if is_new {
            terminal.draw(|frame| draw(view, frame))?;
        }
        is_new = false;
        if !wait(tty)? {
            return Ok(End::Gone);
        }
        while event::poll(Duration::ZERO)? {
            is_new = true;
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match press(view, key) {
                    Then::Draw => {}
                    Then::Quit => return Ok(End::Asked),
                    Then::Ask => {
                        let _ = orders.send((!view.is_paused).then(|| view.query.clone()));
                    }
                }
            }
        }
        for (query, answer) in answers.try_iter() {
            is_new |= take(view, &query, answer);
        }
    }
    Ok(End::Asked)
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
            if !is_same_filter || last.as_ref().is_some_and(|last| last.about.time_ms != now.about.time_ms) {
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
