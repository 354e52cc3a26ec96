//! What a look at the flows of the open window takes, as `top` has it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::capture::flow::Drained;
use crate::exclude;
use crate::flows::{About, Picture, Query, Window};
use crate::pipeline::Pipeline;
use crate::select::Named;

#[derive(Clone, Copy, Debug)]
pub struct LookCost {
    /// By the thread that counts, beside the scan.
    pub copy: Duration,
    /// By the thread that answers: merge and tell verdicts.
    pub settle: Duration,
    /// By the thread that answers, for each question.
    pub answer: Duration,
}

/// `drained`: what was drained in the window before; `peeked`: what the tables hold.
pub fn look(drained: Drained, peeked: Drained, (start, end): (i64, i64)) -> anyhow::Result<LookCost> {
    let named = |ifindex: u32| Named {
        id: format!("eni-{ifindex}"),
        name: ifindex.to_string(),
        addresses: None,
        loopback: false,
    };
    let names: BTreeMap<u32, Named> = peeked.totals.iter().map(|it| (it.ifindex, named(it.ifindex))).collect();
    let flows = peeked.batches.iter().map(Vec::len).sum::<usize>() as u64;
    let mut pipeline = Pipeline::new(exclude::Settings::new(&[], &[], &[])?, Vec::new());
    pipeline.absorb(drained);
    let start_copy = Instant::now();
    let open = pipeline.open(peeked, &names);
    let copy = start_copy.elapsed();
    let about =
        About { time_ms: end * 1000, window: Window { start, end, since_ms: start * 1000 }, ..About::default() };
    let start_settle = Instant::now();
    let picture = Picture::new(about, open);
    let settle = start_settle.elapsed();
    let start_answer = Instant::now();
    let answer = picture.answer(&Query::default());
    let cost = LookCost { copy, settle, answer: start_answer.elapsed() };
    ensure!(answer.matched.flows == flows, "{} flows of {flows}", answer.matched.flows);
    Ok(cost)
}
