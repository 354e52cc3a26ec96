//! The sink that a flow log's settings name.
//! Must not know when it is asked to deliver.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::flow_log::{self, FlowLog, Layout};
use crate::identity::Identity;
use crate::sink::{CloudWatch, Delivered, Directory, Firehose, Names, Objects, Outcome, Print, S3, Shape, Step, Store};
use crate::spool::Spool;

pub(super) enum Sink {
    Objects(Objects),
    CloudWatch(CloudWatch),
    Firehose(Firehose),
    Print(Print),
    #[cfg(test)]
    Scripted(super::tests::Script),
}

impl Sink {
    pub(super) fn open(log: &FlowLog, identity: &Identity, spool: &Arc<Spool>) -> Result<Self, Outcome> {
        let names = |folder: &str, layout: &Layout| Names::new(identity.clone(), &log.id, folder, *layout);
        let objects = |names, layout: &Layout, store| {
            let (spool, shape) = (Arc::clone(spool), Shape::new(layout.file_format, &log.format));
            Objects::open(spool, names, shape, layout.object_interval, store).map(Self::Objects)
        };
        Ok(match &log.destination {
            flow_log::Destination::Stdout => Self::Print(Print::new(spool.directory())),
            flow_log::Destination::Directory { root, layout, retention } => {
                let names = names("", layout);
                let directory = Directory::create(root.clone(), &names)?.keeping(*retention, &names);
                objects(names, layout, Store::Directory(directory))?
            }
            flow_log::Destination::S3(settings) => {
                let names = names(&settings.folder, &settings.layout);
                objects(names, &settings.layout, Store::S3(Box::new(S3::new(settings, &log.tags))))?
            }
            flow_log::Destination::CloudWatchLogs(settings) => {
                Self::CloudWatch(CloudWatch::new(log, settings, spool.directory()))
            }
            flow_log::Destination::Firehose(settings) => Self::Firehose(Firehose::new(settings, spool.directory())),
        })
    }

    /// One object or a few calls, of what is due. `all`: nothing more comes, so everything is.
    pub(super) async fn deliver(&mut self, spool: &Spool, now: i64, all: bool) -> Result<Step, Outcome> {
        match self {
            Self::Objects(objects) => match objects.deliver(now, all).await {
                None if spool.segments().is_empty() => Ok(Step::Idle { due: None }),
                None => Ok(Step::Idle { due: Some(objects.next_look(now)) }),
                Some(Outcome::Done) => Ok(Step::Progress),
                Some(outcome) => Err(outcome),
            },
            Self::CloudWatch(sink) => sink.deliver(spool).await,
            Self::Firehose(sink) => sink.deliver(spool).await,
            Self::Print(sink) => sink.deliver(spool),
            #[cfg(test)]
            Self::Scripted(sink) => sink.deliver(spool, all).await,
        }
    }

    pub(super) fn delivered(&self) -> Delivered {
        match self {
            Self::Objects(sink) => sink.delivered(),
            Self::CloudWatch(sink) => sink.delivered(),
            Self::Firehose(sink) => sink.delivered(),
            Self::Print(sink) => sink.delivered(),
            #[cfg(test)]
            Self::Scripted(_) => Delivered::default(),
        }
    }
}
