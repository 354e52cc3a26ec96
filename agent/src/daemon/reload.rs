//! SIGHUP: flow logs come and go; traffic, counters and the other flow logs notice nothing.
//! Always: a configuration that cannot be used is refused whole, and the former one goes on.
#![forbid(unsafe_code)]

use super::{Daemon, Source, now, slice_seconds, start};
use crate::cli::Failure;
use crate::config::Config;
use crate::exclude;
use crate::select::Selection;
use crate::subscription::Subscription;
use std::collections::BTreeSet;

/// What a new configuration comes to.
pub(super) struct News {
    pub(super) exclusions: exclude::Settings,
    /// Of all flow logs.
    pub(super) ids: BTreeSet<String>,
    pub(super) selections: Vec<Selection>,
    /// Those that are not here yet.
    pub(super) added: Vec<Subscription>,
}

impl Daemon {
    pub(super) fn reload(&mut self) -> Result<(), Failure> {
        match self.news() {
            Ok(news) => {
                self.change(news)?;
                tracing::info!(flow_logs = self.pipeline.subscriptions.len(), "reloaded");
                Ok(())
            }
            Err(failure) => {
                tracing::error!("not reloaded, the former configuration goes on: {failure}");
                Ok(())
            }
        }
    }

    fn news(&mut self) -> Result<News, Failure> {
        let Source::File(path) = &self.settings.source else {
            return Err(Failure::Usage("the flow log was given by flags".to_owned()));
        };
        let Config { host, agent, logs, exclusions, .. } = start::load(path, &self.settings.surroundings)?;
        if host != self.host {
            return Err(Failure::Usage(format!("{}: a change of [host] needs a restart", path.display())));
        }
        if agent.verdicts != self.agent.verdicts {
            tracing::warn!("a change of [agent] takes effect at the next start");
        }
        let ids: BTreeSet<String> = logs.iter().map(|log| log.id.clone()).collect();
        let selections = logs.iter().map(|log| log.selection.clone()).collect();
        let is_here = |id: &str| self.pipeline.subscriptions.iter().any(|one| one.log().id == id);
        let new: Vec<_> = logs.into_iter().filter(|log| !is_here(&log.id)).collect();
        // One that was taken out and is back: its spool has one worker.
        new.iter().for_each(|log| self.leftovers.release(&log.id));
        let added = new.into_iter().map(|log| start::subscribe(log, &self.host, &self.agent.state_directory));
        Ok(News { exclusions, ids, selections, added: added.collect::<Result<_, _>>()? })
    }

    /// The slice ends now: a flow log that goes has everything until then, and one that comes nothing before.
    pub(super) fn change(&mut self, news: News) -> Result<(), Failure> {
        let is_here = |one: &Subscription| news.ids.contains(&one.log().id);
        if news.added.is_empty() && self.pipeline.subscriptions.iter().all(is_here) {
            self.pipeline.change(news.exclusions, Vec::new());
            return Ok(());
        }
        self.cut(now())?;
        let (removed, summary) = self.pipeline.unsubscribe(|id| news.ids.contains(id));
        self.account(&summary, self.window.0);
        for subscription in removed {
            tracing::info!(flow_log = %subscription.log().id, "removed; what waits is still delivered");
            self.leftovers.add(subscription);
        }
        for subscription in &news.added {
            tracing::info!(flow_log = %subscription.log().id, destination = %subscription.log().destination, "added");
        }
        self.pipeline.change(news.exclusions, news.added);
        self.selections = news.selections;
        self.interval = slice_seconds(&self.pipeline);
        self.window.1 = crate::window::window_at(self.window.0, self.interval).1;
        self.sync()?;
        self.durable.name(&self.tracked);
        Ok(())
    }
}
