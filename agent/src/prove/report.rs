//! What a run has shown, and whether that is a proof. Pure.
//! Must not know of columns or colours.
//! Always: one difference, one window that does not add up, or nothing compared at all, and it is none.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::Serialize;
use serde::ser::SerializeStruct as _;

use super::Finding;
use super::line::Outcome;

pub(crate) struct Report {
    pub(crate) seconds: u64,
    pub(crate) comparisons: Vec<Comparison>,
    /// Of the agent's own, that ended meanwhile.
    pub(crate) windows: u64,
    pub(crate) windows_with_error: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) interface: String,
    pub(crate) ifindex: u32,
    pub(crate) direction: &'static str,
    /// The counter.
    pub(crate) by: &'static str,
    pub(crate) outcome: Outcome,
    /// By the interface's own counter, packets only.
    pub(crate) device: Outcome,
    /// Packets that the agent saw and found no room for.
    pub(crate) skipped: u64,
    /// Programs of others on the hook.
    pub(crate) others: u32,
}

impl Comparison {
    pub(crate) fn found(&self) -> Option<&Finding> {
        found(&self.outcome)
    }

    fn name(&self) -> String {
        format!("{} {}", self.interface, self.direction)
    }
}

fn found(outcome: &Outcome) -> Option<&Finding> {
    match outcome {
        Outcome::Compared(found) => Some(found),
        Outcome::NotComparable(_) => None,
    }
}

impl Report {
    fn compared(&self) -> impl Iterator<Item = (&Comparison, &Finding)> {
        self.comparisons.iter().filter_map(|comparison| Some((comparison, comparison.found()?)))
    }

    fn differing(&self) -> Vec<(&Comparison, &Finding)> {
        self.compared().filter(|(_, found)| !found.agrees()).collect()
    }

    pub(crate) fn is_proof(&self) -> bool {
        self.compared().next().is_some() && self.differing().is_empty() && self.windows_with_error == 0
    }

    /// One sentence.
    pub(crate) fn verdict(&self) -> String {
        let differing = self.differing();
        if !differing.is_empty() {
            let one = |(comparison, found): &(&Comparison, &Finding)| {
                let (packets, bytes) = (range(found.packets), range(found.bytes));
                format!("{} by {packets} packets, {bytes} bytes", comparison.name())
            };
            let all: Vec<String> = differing.iter().map(one).collect();
            return format!("not proved: flowlogd differs at {}", all.join("; "));
        }
        let left_out = self.comparisons.iter().filter_map(|comparison| match &comparison.outcome {
            Outcome::NotComparable(why) => Some((comparison.name(), why.as_str())),
            Outcome::Compared(_) => None,
        });
        let left_out: Vec<(String, &str)> = left_out.collect();
        if self.compared().next().is_none() {
            let why = left_out.first().map_or("no interface", |(_, why)| why);
            return format!("not proved: nothing could be compared: {why}");
        }
        if self.windows_with_error > 0 {
            let windows = self.windows_with_error;
            return format!("not proved: flowlogd's own sums do not add up in {windows} windows: please report this");
        }
        let interfaces = self.compared().map(|(comparison, _)| comparison.ifindex).collect::<BTreeSet<_>>().len();
        let packets: u64 = self.compared().map(|(_, found)| found.wire.packets).sum();
        if packets == 0 {
            return "no difference, but no packet passed either: run it while there is traffic".to_owned();
        }
        let plural = |count| if count == 1 { "" } else { "s" };
        let (of_interfaces, of_packets) = (plural(interfaces as u64), plural(packets));
        let packets = grouped(packets);
        let mut text = format!("proved: {interfaces} interface{of_interfaces}, {packets} packet{of_packets}, ");
        let open: u64 = self.compared().map(|(_, found)| found.packets.reach()).max().unwrap_or_default();
        text += &match open {
            0 => "difference 0".to_owned(),
            open => format!("difference 0 within {} packets that were under way", grouped(open)),
        };
        let names: Vec<String> = left_out.into_iter().map(|(name, _)| name).collect();
        if names.is_empty() { text } else { format!("{text}; not compared: {}", names.join(", ")) }
    }
}

/// With a sign; one number where both are the same.
pub(crate) fn range(of: super::Interval) -> String {
    let signed = |value: i64| {
        let sign = if value < 0 {
            "-"
        } else if value > 0 {
            "+"
        } else {
            ""
        };
        format!("{sign}{}", grouped(value.unsigned_abs()))
    };
    if of.width() == 0 { signed(of.min) } else { format!("{} to {}", signed(of.min), signed(of.max)) }
}

/// 1,234,567.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Serialize for Report {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 6)?;
        report.serialize_field("proved", &self.is_proof())?;
        report.serialize_field("verdict", &self.verdict())?;
        report.serialize_field("seconds", &self.seconds)?;
        report.serialize_field("comparisons", &self.comparisons)?;
        report.serialize_field("windows", &self.windows)?;
        report.serialize_field("windows_with_error", &self.windows_with_error)?;
        report.end()
    }
}

impl Serialize for Comparison {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let why = match &self.outcome {
            Outcome::NotComparable(why) => Some(why),
            Outcome::Compared(_) => None,
        };
        let mut one = serializer.serialize_struct("Comparison", 10)?;
        one.serialize_field("interface", &self.interface)?;
        one.serialize_field("ifindex", &self.ifindex)?;
        one.serialize_field("direction", self.direction)?;
        one.serialize_field("counter", self.by)?;
        one.serialize_field("agrees", &self.found().map(Finding::agrees))?;
        one.serialize_field("found", &self.found())?;
        one.serialize_field("not_comparable", &why)?;
        one.serialize_field("device_agrees", &found(&self.device).map(Finding::agrees))?;
        one.serialize_field("skipped", &self.skipped)?;
        one.serialize_field("other_programs", &self.others)?;
        one.end()
    }
}

#[cfg(test)]
mod tests {
    use super::super::interval::Interval;
    use super::*;
    use crate::capture::flow::Total;

    fn compared(interface: &str, ifindex: u32, packets: Interval) -> Comparison {
        let found = Finding { wire: Total { packets: 1500, bytes: 0 }, packets, ..Finding::default() };
        Comparison {
            interface: interface.to_owned(),
            ifindex,
            direction: "egress",
            by: "nftables",
            outcome: Outcome::Compared(found),
            device: Outcome::NotComparable(String::new()),
            skipped: 0,
            others: 0,
        }
    }

    fn report(comparisons: Vec<Comparison>) -> Report {
        Report { seconds: 3, comparisons, windows: 2, windows_with_error: 0 }
    }

    #[test]
    fn verdicts() {
        let between = |min, max| Interval { min, max };
        let exact = report(vec![compared("eth0", 2, between(0, 0)), compared("eth1", 3, between(0, 0))]);
        assert_eq!(exact.verdict(), "proved: 2 interfaces, 3,000 packets, difference 0");
        assert!(exact.is_proof());
        let mut idle = compared("eth0", 2, between(0, 0));
        idle.outcome = Outcome::Compared(Finding::default());
        assert!(report(vec![idle]).verdict().starts_with("no difference, but no packet passed"));
        let open = report(vec![compared("eth0", 2, between(-3, 2))]);
        let want = "proved: 1 interface, 1,500 packets, difference 0 within 3 packets that were under way";
        assert_eq!((open.verdict().as_str(), open.is_proof()), (want, true));
        let wrong = report(vec![compared("eth0", 2, between(0, 0)), compared("eth1", 3, between(-1013, -1013))]);
        let want = "not proved: flowlogd differs at eth1 egress by -1,013 packets, 0 bytes";
        assert_eq!((wrong.verdict().as_str(), wrong.is_proof()), (want, false));
    }

    #[test]
    fn what_is_left_out_is_said_and_all_left_out_is_no_proof() {
        let gone = Comparison {
            outcome: Outcome::NotComparable("gone".to_owned()),
            ..compared("eth1", 3, Interval::default())
        };
        let some = report(vec![compared("eth0", 2, Interval::default()), gone.clone()]);
        assert_eq!(some.verdict(), "proved: 1 interface, 1,500 packets, difference 0; not compared: eth1 egress");
        assert!(some.is_proof());
        let none = report(vec![gone]);
        assert_eq!(none.verdict(), "not proved: nothing could be compared: gone");
        assert!(!none.is_proof());
    }

    #[test]
    fn windows_that_do_not_add_up_are_no_proof() {
        let wrong = Report { windows_with_error: 1, ..report(vec![compared("eth0", 2, Interval::default())]) };
        assert!(!wrong.is_proof() && wrong.verdict().contains("1 windows"));
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(range(Interval { min: -1000, max: 4 }), "-1,000 to +4");
        assert_eq!(range(Interval::default()), "0");
    }
}
