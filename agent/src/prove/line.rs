//! All moments of one interface and direction against one counter, and which of them tell most.
//! Pure. Must not know the time.
//! Always: a difference is one that lasts to the end; a guess never overrules a moment without traffic.
#![forbid(unsafe_code)]

use super::bracket::{Bracket, Finding};
use super::session::Phase;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    start: Option<Bracket>,
    /// The first and the last moment without traffic.
    idle: Option<(Bracket, Bracket)>,
    last: Option<Bracket>,
    end: Option<Bracket>,
    /// Once found, it stays so.
    broken: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Compared(Finding),
    /// And why.
    NotComparable(String),
}

impl Line {
    pub(super) fn take(&mut self, bracket: Bracket, phase: Phase) {
        if bracket.is_idle() {
            self.idle = Some((self.idle.map_or(bracket, |(first, _)| first), bracket));
        }
        self.last = Some(bracket);
        match phase {
            Phase::Start => keep(&mut self.start, bracket, |best| bracket.width() < best.width()),
            Phase::Run => {}
            Phase::End => keep(&mut self.end, bracket, |best| bracket.width() <= best.width()),
        }
    }

    pub(super) fn break_off(&mut self, why: &str) {
        self.broken.get_or_insert_with(|| why.to_owned());
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    pub(super) fn has_idle_start(&self) -> bool {
        self.broken.is_some() || self.start.is_some_and(|bracket| bracket.is_idle())
    }

    /// Nothing to be gained by looking again.
    pub(super) fn is_settled(&self) -> bool {
        match self.outcome() {
            Outcome::Compared(found) => found.agrees() && self.end.is_some_and(|bracket| bracket.is_idle()),
            Outcome::NotComparable(_) => self.broken.is_some(),
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        if let Some(why) = &self.broken {
            return Outcome::NotComparable(why.clone());
        }
        let whole = self.start.zip(self.end.or(self.last)).map(|(start, end)| start.until(&end));
        let idle = self.idle.filter(|(first, last)| first != last).map(|(first, last)| first.until(&last));
        // Of the two, one that shows a difference; then the one that leaves less open, which is the idle one.
        let all = [whole, idle].into_iter().flatten();
        let best = all.min_by_key(|found| (found.agrees(), found.packets.width()));
        best.map_or_else(|| Outcome::NotComparable("no two moments to compare".to_owned()), Outcome::Compared)
    }
}

fn keep(best: &mut Option<Bracket>, bracket: Bracket, is_better: impl FnOnce(&Bracket) -> bool) {
    if best.as_ref().is_none_or(is_better) {
        *best = Some(bracket);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bracket::Counted;
    use super::super::interval::Interval;
    use super::*;
    use crate::capture::flow::Total;

    fn bracket(before: u64, agent: u64, after: u64) -> Bracket {
        let total = |packets| Total { packets, bytes: packets };
        let agent = Counted { least: total(agent), most: total(agent), wire: total(agent) };
        Bracket { before: total(before), agent, after: total(after) }
    }

    fn found(takes: &[(Phase, Bracket)]) -> (Line, Finding) {
        let mut line = Line::default();
        takes.iter().for_each(|(phase, bracket)| line.take(*bracket, *phase));
        match line.outcome() {
            Outcome::Compared(found) => (line, found),
            Outcome::NotComparable(why) => panic!("{why}"),
        }
    }

    #[test]
    fn idle_at_both_ends() {
        let (line, found) = found(&[
            (Phase::Start, bracket(0, 1, 3)),
            (Phase::Start, bracket(3, 3, 3)),
            (Phase::Run, bracket(40, 44, 50)),
            (Phase::End, bracket(60, 63, 66)),
            (Phase::End, bracket(90, 90, 90)),
        ]);
        assert!(line.has_idle_start() && line.is_settled() && found.is_exact() && found.agrees());
        assert_eq!(found.counter.packets, 87);
    }

    #[test]
    fn never_idle_is_within() {
        let (line, found) = found(&[(Phase::Start, bracket(0, 1, 3)), (Phase::End, bracket(60, 63, 66))]);
        assert!(!line.has_idle_start() && !line.is_settled() && found.agrees() && !found.is_exact());
    }

    #[test]
    fn a_slip_that_does_not_last_is_none() {
        let takes = [
            (Phase::Start, bracket(0, 0, 0)),
            (Phase::Run, bracket(40, 41, 40)),
            (Phase::End, bracket(60, 61, 60)),
            (Phase::End, bracket(80, 80, 80)),
        ];
        assert!(!found(&takes[..3]).1.agrees() && !found(&takes[..3]).0.is_settled());
        assert!(found(&takes).1.agrees() && found(&takes).0.is_settled());
    }

    #[test]
    fn a_loss_is_found_behind_wide_moments() {
        let (_, found) = found(&[
            (Phase::Start, bracket(0, 5, 10)),
            (Phase::Run, bracket(10, 10, 10)),
            (Phase::Run, bracket(50, 48, 50)),
            (Phase::End, bracket(60, 65, 80)),
        ]);
        assert!(!found.agrees() && found.packets == Interval { min: -2, max: -2 });
    }

    #[test]
    fn broken_stays_broken() {
        let (mut line, _) = found(&[(Phase::Start, bracket(0, 0, 0)), (Phase::End, bracket(1, 1, 1))]);
        line.break_off("gone");
        line.break_off("later");
        assert!(line.outcome() == Outcome::NotComparable("gone".to_owned()) && line.is_settled());
        assert!(matches!(Line::default().outcome(), Outcome::NotComparable(_)) && !Line::default().is_settled());
    }
}
