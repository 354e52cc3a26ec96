//! SIGHUP, or news of the metadata service: flow logs come and go; traffic, counters and the other flow logs notice nothing.
//! Always: a configuration that cannot be used is refused whole, and the former one goes on.
#![forbid(unsafe_code)]

use super::{Daemon, Source, now, slice_seconds, start};
use crate::cli::Failure;
use crate::config::{self, Config, ConfigError, Metadata};
use crate::exclude;
use crate::flow_log::FlowLog;
use crate::identity::imds::Imds;
use crate::identity::services::ServicesFile;
use crate::identity::{Identity, kept};
use crate::known::Known;
use crate::select::Selection;
use crate::subscription::Subscription;
use std::collections::BTreeSet;
use std::sync::Arc;

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
        match self.read() {
            Ok(news) => {
                self.change(news)?;
                self.not_reloaded = None;
                tracing::info!(flow_logs = self.pipeline.subscriptions.len(), "reloaded");
                Ok(())
            }
            Err(failure) => {
                tracing::error!("not reloaded, the former configuration goes on: {failure}");
                self.not_reloaded = Some(failure.to_string());
                Ok(())
            }
        }
    }

    /// What the file says now.
    fn read(&mut self) -> Result<News, Failure> {
        let Source::File(path) = &self.settings.source else {
            return Err(Failure::Usage("the flow log was given by flags".to_owned()));
        };
        let usage = |error: ConfigError| Failure::Usage(error.to_string());
        let tables = config::read(path).map_err(usage)?;
        let config = tables.build(&self.settings.surroundings).map_err(usage)?;
        if config.host != self.known.host {
            return Err(Failure::Usage(format!("{}: a change of [host] needs a restart", path.display())));
        }
        // Not those we run with: flags may have said otherwise.
        let before = self.settings.tables.build(&self.settings.surroundings).map_err(usage)?;
        if config.agent != before.agent {
            tracing::warn!("a change of [agent] takes effect at the next start");
        }
        let news = self.news(config)?;
        self.settings.tables = tables;
        Ok(news)
    }

    /// The metadata service has answered, with something new or for the first time.
    pub(super) fn learn(&mut self, imds: Imds) -> Result<(), Failure> {
        let kept = kept::write(&self.agent.state_directory, &self.settings.surroundings.machine_id, &imds);
        kept.unwrap_or_else(|error| tracing::warn!("cannot keep what the metadata service said: {error}"));
        let surroundings = &mut self.settings.surroundings;
        surroundings.metadata = Metadata::Known { imds, is_fresh: true };
        let config = self.settings.tables.build(surroundings).map_err(|error| Failure::Usage(error.to_string()));
        let learnt = config.and_then(|config| {
            if config.host.identity != self.known.host.identity {
                let Identity { account_id, region } = &config.host.identity;
                let what = "this host is another one now, which needs a restart";
                return Err(Failure::Run(format!("account {account_id}, region {region}: {what}")));
            }
            self.know(Known { host: config.host.clone(), ..(*self.known).clone() });
            self.news(config)
        });
        match learnt {
            Ok(news) => self.change(news)?,
            Err(failure) => tracing::error!("instance metadata: {failure}"),
        }
        // From now on records have the right names; a window under way goes on under them.
        for named in self.tracked.values_mut() {
            let id = self.known.host.interface_id(&named.name);
            if named.id != id {
                tracing::info!(interface = %named.name, %id, "known by its id now");
                named.id = id;
            }
        }
        self.durable.name(&self.tracked);
        Ok(())
    }

    /// From now on records say it, also of windows under way.
    pub(super) fn know(&mut self, known: Known) {
        self.known = Arc::new(known);
        self.pipeline.learn(&self.known);
    }

    /// Somebody may have put a newer list of AWS's services there.
    pub(super) fn look_for_services(&mut self) {
        if let Some(services) = self.services.as_mut().and_then(ServicesFile::poll) {
            self.know(Known { services: Some(services), ..(*self.known).clone() });
        }
    }

    fn news(&mut self, config: Config) -> Result<News, Failure> {
        let Config { logs, exclusions, .. } = config;
        let ids: BTreeSet<String> = logs.iter().map(|log| log.id.clone()).collect();
        let selections = logs.iter().map(|log| log.selection.clone()).collect();
        let is_here = |id: &str| self.pipeline.subscriptions.iter().any(|one| one.log().id == id);
        let is_other =
            |log: &FlowLog| self.pipeline.subscriptions.iter().any(|one| one.log().id == log.id && one.log() != log);
        for log in logs.iter().filter(|log| is_other(log)) {
            tracing::warn!(flow_log = %log.id, "a change of retention or of the spool's size takes effect at the next start");
        }
        let new: Vec<_> = logs.into_iter().filter(|log| !is_here(&log.id)).collect();
        // One that was taken out and is back: its spool has one worker.
        new.iter().for_each(|log| self.leftovers.release(&log.id));
        let added = new.into_iter().map(|log| start::subscribe(log, &self.known, &self.agent.state_directory));
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
