//! Spools of flow logs that are configured no longer: delivered to their end, and then removed.
//! Must not know why a flow log went.
#![forbid(unsafe_code)]

use crate::deliver::{self, Delivery};
use crate::flow_log::FlowLog;
use crate::identity::Identity;
use crate::spool::Spool;
use crate::subscription::Subscription;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
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
    /// What an earlier run's flow logs left below `spools`, but for those that are configured.
    pub(crate) fn find(spools: &Path, identity: &Identity, is_configured: impl Fn(&str) -> bool) -> Self {
        let mut found = Self::default();
        for entry in fs::read_dir(spools).into_iter().flatten().flatten() {
            let (directory, name) = (entry.path(), entry.file_name());
            let Some(id) = name.to_str().filter(|name| name.starts_with("fl-") && !is_configured(name)) else {
                continue;
            };
            match open(&directory, identity) {
                Ok(leftover) => {
                    let windows = leftover.spool.segments().len();
                    tracing::info!(flow_log = id, windows, "no longer configured; what waits is still delivered");
                    found.0.insert(id.to_owned(), leftover);
                }
                Err(why) => tracing::warn!("left {} alone: {why}", directory.display()),
            }
        }
        found
    }

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

fn open(directory: &Path, identity: &Identity) -> Result<Leftover, String> {
    let path = directory.join(deliver::FLOW_LOG);
    let text = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let log: FlowLog =
        serde_json::from_slice(&text).map_err(|error| format!("{} is no flow log: {error}", path.display()))?;
    let spool = Arc::new(Spool::open(directory, log.spool_bytes_max).map_err(|error| error.to_string())?);
    let delivery = Delivery::start(Arc::new(log), identity.clone(), Arc::clone(&spool), directory.to_owned())
        .map_err(|error| error.to_string())?;
    delivery.flush();
    Ok(Leftover { delivery, spool, directory: directory.to_owned() })
}
