//! Spools of flow logs that are configured no longer: delivered to their end, and then removed.
//! Must not know why a flow log went.
#![forbid(unsafe_code)]

use crate::deliver::{self, Delivery};
use crate::spool::Spool;
use crate::subscription::Subscription;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// By flow log id.
#[derive(Default)]
pub(crate) struct Leftovers(BTreeMap<String, Leftover>);

struct Leftover {
    delivery: Delivery,
    spool: Arc<Spool>,
    directory: PathBuf,
}

impl Leftovers {
    pub(crate) fn add(&mut self, subscription: Subscription) {
        let (id, directory, spool) = subscription.place();
        let Some(delivery) = subscription.into_delivery() else { return };
        // What waits for its object to be due need not wait any longer.
        delivery.flush();
        self.0.insert(id, Leftover { delivery, spool, directory });
    }

    /// Stops working on a flow log that is configured again.
    pub(crate) fn release(&mut self, id: &str) {
        if let Some(leftover) = self.0.remove(id) {
            leftover.delivery.stop();
        }
    }

    /// Removes what is empty.
    pub(crate) fn look(&mut self) {
        let is_done = |leftover: &Leftover| leftover.spool.segments().is_empty();
        let done: Vec<String> =
            self.0.iter().filter(|(_, leftover)| is_done(leftover)).map(|(id, _)| id.clone()).collect();
        for id in done {
            let Some(Leftover { delivery, directory, .. }) = self.0.remove(&id) else { continue };
            delivery.stop();
            // Dead letters are for somebody to look at.
            if !directory.join(deliver::DEAD_LETTERS).exists()
                && let Err(error) = fs::remove_dir_all(&directory)
            {
                tracing::warn!("cannot remove {}: {error}", directory.display());
            }
        }
    }

    pub(crate) fn into_deliveries(self) -> impl Iterator<Item = Delivery> {
        self.0.into_values().map(|leftover| leftover.delivery)
    }
}
