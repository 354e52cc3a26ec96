//! What waits in a spool on its way to a service, with all that an agent has for that but the windows.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Service, Window, flow_log};
use crate::deliver::Delivery;
use crate::deliver::status::Status;
use crate::emit;
use crate::identity::Identity;
use crate::spool::Spool;

/// Spools the window again and again into `root`, until there are at least as many bytes. The number of windows.
pub fn fill(window: &Window, service: Service, root: &Path, bytes: u64) -> anyhow::Result<u64> {
    let spool = Spool::open(root, u64::MAX)?;
    let log = flow_log(service, None);
    let mut number = 0;
    while spool.segments().iter().map(|segment| segment.bytes).sum::<u64>() < bytes {
        emit::spool(&log, &window.batch(number), &spool)?;
        number += 1;
    }
    Ok(number)
}

/// What it took to deliver a spool.
#[derive(Clone, Copy, Debug)]
pub struct DeliverCost {
    /// Until the spool is empty.
    pub time: Duration,
    pub records: u64,
    /// Objects or calls.
    pub calls: u64,
    /// As sent, without what is around them.
    pub bytes: u64,
}

/// Delivers what is in the spool in `root` to the stand-in at `url`, all of it, as an agent that stops.
pub fn deliver(service: Service, url: &str, root: &Path, limit: Duration) -> anyhow::Result<DeliverCost> {
    let spool = Arc::new(Spool::open(root, u64::MAX)?);
    let log = Arc::new(flow_log(service, Some(url)));
    let start = Instant::now();
    let delivery = Delivery::start(log, Identity::new(None, None)?, spool, root.to_owned())?;
    let finished = delivery.finish(start + limit);
    let time = start.elapsed();
    ensure!(finished.segments == 0, "not delivered: {finished:?}");
    let status = Status::read(root)?.context("no status.json")?;
    let crate::deliver::status::Delivered { records, calls, bytes, .. } = status.delivered;
    Ok(DeliverCost { time, records, calls, bytes })
}
