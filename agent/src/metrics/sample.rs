//! One number with its labels, and the ways in which many come out of a snapshot.
#![forbid(unsafe_code)]

use std::fmt::{self, Display};

use crate::capture::flow::Total;
use crate::status::{FlowLog, Interface, Logged, Side, Snapshot, Table, Unit};

/// In the order of the metric's labels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Whole(i128),
    Real(f64),
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
        }
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Whole(number.into())
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Whole(is.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

pub(super) fn sample(labels: &[&str], value: impl Into<Value>) -> Sample {
    Sample { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value: value.into() }
}

/// Without labels.
pub(super) fn one(value: impl Into<Value>) -> Vec<Sample> {
    vec![sample(&[], value)]
}

/// interface
pub(super) fn by_interface<V: Into<Value>>(it: &Snapshot, value: impl Fn(&Interface) -> V) -> Vec<Sample> {
    it.interfaces.iter().map(|interface| sample(&[&interface.name], value(interface))).collect()
}

/// interface, direction
pub(super) fn by_side<V: Into<Value>>(it: &Snapshot, value: impl Fn(&Side) -> V) -> Vec<Sample> {
    by_side_and(it, |side| [("", value(side))]).into_iter().map(without_last).collect()
}

/// interface, direction, and one more
pub(super) fn by_side_and<V: Into<Value>, const N: usize>(
    it: &Snapshot,
    values: impl Fn(&Side) -> [(&'static str, V); N],
) -> Vec<Sample> {
    let mut samples = Vec::new();
    for interface in &it.interfaces {
        for (direction, side) in interface.sides() {
            let all = values(side).into_iter();
            samples.extend(all.map(|(label, value)| sample(&[&interface.name, direction, label], value)));
        }
    }
    samples
}

fn without_last(mut sample: Sample) -> Sample {
    sample.labels.pop();
    sample
}

/// interface, direction, action
pub(super) fn by_action(it: &Snapshot, value: impl Fn(&Logged) -> u64) -> Vec<Sample> {
    by_side_and(it, |side| [("ACCEPT", value(&side.accepted)), ("REJECT", value(&side.rejected))])
}

/// interface, direction, cause
pub(super) fn by_unparsable(it: &Snapshot, value: impl Fn(Total) -> u64) -> Vec<Sample> {
    by_side_and(it, |side| side.unparsable.causes().map(|(cause, total)| (cause, value(total))))
}

/// interface, direction, cause
pub(super) fn by_skipped(it: &Snapshot, value: impl Fn(Total) -> u64) -> Vec<Sample> {
    by_side_and(it, |side| [("tables-full", value(side.skipped)), ("drops-full", value(side.drops_skipped))])
}

/// rule
pub(super) fn by_exclusion(it: &Snapshot, value: impl Fn(&Total) -> u64) -> Vec<Sample> {
    it.excluded.iter().map(|(rule, total)| sample(&[rule], value(total))).collect()
}

/// map
pub(super) fn by_table(it: &Snapshot, value: impl Fn(&Table) -> u64) -> Vec<Sample> {
    it.tables.iter().map(|table| sample(&[&table.name], value(table))).collect()
}

/// flow_log
pub(super) fn by_flow_log<V: Into<Value>>(it: &Snapshot, value: impl Fn(&FlowLog) -> V) -> Vec<Sample> {
    it.flow_logs.iter().map(|log| sample(&[&log.id], value(log))).collect()
}

/// cause
pub(super) fn by_loss(it: &Snapshot, unit: Unit) -> Vec<Sample> {
    let of_unit = it.losses.iter().filter(|loss| loss.unit == unit);
    of_unit.map(|loss| sample(&[loss.cause.name()], loss.count)).collect()
}
