//! Asks AWS who we are and whether a destination is there, for whoever sets a host up. Writes nothing.
//! Must not know how records are delivered.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::future::Future;

use aws_credential_types::provider::ProvideCredentials as _;

use super::{config, error, http};
use crate::flow_log::{CloudWatchLogs, Destination, Endpoint, Firehose, S3};
use crate::sink::{Fault, Outcome};

/// What came of the question who we are.
pub(crate) struct Asked {
    /// Which credentials.
    pub(crate) as_whom: String,
    pub(crate) answer: Result<String, Fault>,
}

/// What came of the look for a destination.
pub(crate) enum Place {
    There,
    /// With this code: we may not look, which delivering does not need.
    Answers(String),
    Not(Fault),
}

/// Without more rights than delivering needs.
const MAY_NOT_LOOK: [&str; 5] = ["403", "AccessDenied", "AccessDeniedException", "Forbidden", "UnauthorizedOperation"];

/// Each kind of credentials that these destinations need, once.
pub(crate) fn who<'a>(destinations: impl Iterator<Item = &'a Destination>) -> impl Iterator<Item = Asked> {
    let mut seen = BTreeSet::new();
    let mut asked = Vec::new();
    for endpoint in destinations.filter_map(endpoint) {
        let Endpoint { region, url, profile, .. } = endpoint;
        if seen.insert((region, url.is_some(), profile)) {
            let profile = profile.as_ref().map_or("the default chain".to_owned(), |name| format!("profile {name}"));
            asked.push(Asked { as_whom: format!("{profile}, {region}"), answer: block_on(identify(endpoint)) });
        }
    }
    asked.into_iter()
}

/// Whether it is there.
pub(crate) fn place(destination: &Destination) -> Place {
    let found = match destination {
        Destination::Stdout | Destination::Directory { .. } => Ok(()),
        Destination::S3(s3) => block_on(bucket(s3)),
        Destination::CloudWatchLogs(logs) => block_on(group(logs)),
        Destination::Firehose(firehose) => block_on(stream(firehose)),
    };
    match found {
        Ok(()) => Place::There,
        Err(fault) if MAY_NOT_LOOK.contains(&fault.code.as_str()) => Place::Answers(fault.code),
        Err(fault) => Place::Not(fault),
    }
}

fn endpoint(destination: &Destination) -> Option<&Endpoint> {
    match destination {
        Destination::Stdout | Destination::Directory { .. } => None,
        Destination::S3(S3 { endpoint, .. })
        | Destination::CloudWatchLogs(CloudWatchLogs { endpoint, .. })
        | Destination::Firehose(Firehose { endpoint, .. }) => Some(endpoint),
    }
}

/// Every call has its own limits in time.
fn block_on<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fault::new("runtime", error))?;
    let result = runtime.block_on(work);
    // A name that is being looked up would keep it for as long as that takes.
    runtime.shutdown_background();
    result
}

fn fault(outcome: Outcome) -> Fault {
    match outcome {
        Outcome::Retry(fault) | Outcome::Refuse(fault) | Outcome::Fatal(fault) => fault,
        Outcome::Done => Fault::new("done", ""),
    }
}

async fn identify(endpoint: &Endpoint) -> Result<String, Fault> {
    let config = config(endpoint, &http::client()).await;
    if endpoint.url.is_some() {
        // That is a service of its own, which need not know STS.
        let provider = config.credentials_provider().ok_or_else(|| Fault::new("credentials", "none"))?;
        let found = provider.provide_credentials().await;
        return match found {
            Ok(_) => Ok("found; not tested: whom the service takes them for".to_owned()),
            Err(error) => Err(fault(error::no_credentials(&error))),
        };
    }
    let answer = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await;
    let answer = answer.map_err(|error| fault(error::outcome(&error)))?;
    Ok(answer.arn.unwrap_or_else(|| "nobody in particular".to_owned()))
}

async fn bucket(s3: &S3) -> Result<(), Fault> {
    let config = config(&s3.endpoint, &http::client()).await;
    let settings = aws_sdk_s3::config::Builder::from(&config).force_path_style(s3.endpoint.path_style).build();
    let found = aws_sdk_s3::Client::from_conf(settings).head_bucket().bucket(&s3.bucket).send().await;
    match found.map_err(|error| fault(error::outcome(&error))) {
        Ok(_) => Ok(()),
        // An answer to HEAD has no body that says so.
        Err(fault) if ["404", "NotFound"].contains(&fault.code.as_str()) => {
            Err(Fault::new("NoSuchBucket", "make the bucket, or correct log-destination"))
        }
        Err(fault) => Err(fault),
    }
}

/// One that is not there is made when there is something to deliver.
async fn group(logs: &CloudWatchLogs) -> Result<(), Fault> {
    let config = config(&logs.endpoint, &http::client()).await;
    let call = aws_sdk_cloudwatchlogs::Client::new(&config).describe_log_groups();
    let found = call.log_group_name_prefix(&logs.group).limit(1).send().await;
    found.map(drop).map_err(|error| fault(error::outcome(&error)))
}

/// Its tags, for what else describes it is long, and services in AWS's place leave parts of that out.
async fn stream(firehose: &Firehose) -> Result<(), Fault> {
    let config = config(&firehose.endpoint, &http::client()).await;
    let call = aws_sdk_firehose::Client::new(&config).list_tags_for_delivery_stream();
    let found = call.delivery_stream_name(&firehose.stream).limit(1).send().await;
    found.map(drop).map_err(|error| fault(error::outcome(&error)))
}
