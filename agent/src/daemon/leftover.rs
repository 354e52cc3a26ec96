//! Spools of flow logs that are configured no longer: delivered to their end, and then removed.
//! Must not know why a flow log went.
#![forbid(unsafe_code)]

use crate::deliver::{self, Delivery, Missed};
use crate::flow_log::FlowLog;
use crate::spool::Spool;
use crate::status::Made;
use crate::subscription::Subscription;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Add as _;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Leftovers {
    /// By flow log id.
    here: BTreeMap<String, Leftover>,
    /// By those that are done or were taken back: what is missing does not come back with them.
    missed: Missed,
}

pub(crate) struct Leftover {
    pub(crate) log: FlowLog,
    pub(crate) made: Made,
    pub(crate) delivery: Delivery,
    pub(crate) spool: Arc<Spool>,
    directory: PathBuf,
}

impl Leftovers {
    pub(crate) fn add(&mut self, subscription: Subscription) {
        let (id, directory, spool) = subscription.place();
        let (log, made) = (subscription.log().clone(), subscription.made());
        let Some(delivery) = subscription.into_delivery() else { return };
        // What waits for its object to be due need not wait any longer.
        delivery.flush();
        self.here.insert(id, Leftover { log, made, delivery, spool, directory });
    }

    /// Stops working on a flow log that is configured again.
    pub(crate) fn release(&mut self, id: &str) {
        if let Some(leftover) = self.here.remove(id) {
            self.missed = self.missed + leftover.delivery.missed();
            leftover.delivery.stop();
        }
    }

    /// Removes what is empty.
    pub(crate) fn look(&mut self) {
        let is_done = |leftover: &Leftover| leftover.spool.segments().is_empty();
        let done: Vec<String> =
            self.here.iter().filter(|(_, leftover)| is_done(leftover)).map(|(id, _)| id.clone()).collect();
        for id in done {
            let Some(Leftover { delivery, directory, .. }) = self.here.remove(&id) else { continue };
            self.missed = self.missed + delivery.missed();
            delivery.stop();
            // Dead letters are for somebody to look at.
            if !directory.join(deliver::DEAD_LETTERS).exists()
                && let Err(error) = fs::remove_dir_all(&directory)
            {
                tracing::warn!("cannot remove {}: {error}", directory.display());
            }
        }
    }

    /// By all that were ever here.
    pub(crate) fn missed(&self) -> Missed {
        self.here.values().map(|leftover| leftover.delivery.missed()).fold(self.missed, Missed::add)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Leftover> {
        self.here.values()
    }

    pub(crate) fn into_deliveries(self) -> impl Iterator<Item = Delivery> {
        self.here.into_values().map(|leftover| leftover.delivery)
    }
}
