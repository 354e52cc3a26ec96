//! Settings -> the stages of the pipeline. Each refusal names the flag and the value.
//! Knows how stages are made and nothing of what they do.
#![forbid(unsafe_code)]

use crate::cli::Failure;
use crate::daemon::{Destination, Settings};
use crate::exclude;
use crate::identity::{self, Identity, IdentityError};
use crate::pipeline::{Pipeline, TrafficType};
use crate::sink::{DirectorySink, Sink, StdoutSink};

fn usage(flag: &str, why: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("'{flag}': {why}"))
}

/// A flow log's id is a digest of the host and its settings: another format or source never mixes into its objects.
fn flow_log_id(settings: &Settings, machine_id: &str) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
    identity::flow_log_id(&[
        machine_id,
        &format!("{:?}", settings.destination),
        &settings.traffic_type,
        &settings.interval.to_string(),
        &list(&mut settings.selection.globs.iter().cloned()),
        &list(&mut settings.selection.subnets.iter().map(ToString::to_string)),
    ])
}

/// What can be refused without touching anything.
pub(crate) struct Checked {
    identity: Identity,
    exclusions: exclude::Settings,
}

pub(crate) fn check(settings: &Settings) -> Result<Checked, Failure> {
    let identity = Identity::new(settings.account_id.as_deref(), settings.region.as_deref()).map_err(|e| match e {
        IdentityError::AccountId(_) => usage("--account-id", e),
        IdentityError::Region(_) => usage("--region", e),
    })?;
    let exclusions = exclude::Settings::new(&settings.vpc_cidrs, &settings.subnet_cidrs, &settings.log_excluded)
        .map_err(|e| usage("--log-excluded", e))?;
    Ok(Checked { identity, exclusions })
}

/// Opens the destination.
pub(crate) fn pipeline(checked: Checked, settings: &Settings, machine_id: &str) -> Result<Pipeline, Failure> {
    let Checked { identity, exclusions } = checked;
    let traffic_type = match settings.traffic_type.as_str() {
        "ACCEPT" => TrafficType::Accept,
        "REJECT" => TrafficType::Reject,
        _ => TrafficType::All,
    };
    let sink = match &settings.destination {
        Destination::Stdout => Sink::Stdout(StdoutSink::new()),
        Destination::Directory(root) => {
            let id = flow_log_id(settings, machine_id);
            let sink = DirectorySink::create(root.clone(), &identity, &id);
            Sink::Directory(sink.map_err(|e| usage("--log-destination", format_args!("'{}': {e}", root.display())))?)
        }
    };
    Ok(Pipeline::new(exclusions, traffic_type, identity, sink))
}
