//! What all AWS sinks share: as whom we come, over which connection, and how long we wait.
//! Knows no operation of any service. One attempt each: trying again is the worker's.
#![forbid(unsafe_code)]

pub(super) mod error;

mod credentials;
mod helper;
mod http;
pub(crate) mod probe;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use helper::judge as judge_credentials;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::Outcome;
use crate::flow_log::Endpoint;

const CONNECT: Duration = Duration::from_secs(5);
/// Credentials included. A small call; what sends much asks for more.
pub(super) const ATTEMPT: Duration = Duration::from_secs(30);

/// A client of one service, made when it is first needed and again when what it was made of may have changed: the SDK
/// reads profiles once and keeps credentials until they expire.
pub(super) struct Connection<C> {
    endpoint: Endpoint,
    http: SharedHttpClient,
    make: fn(&SdkConfig, &Endpoint) -> C,
    client: Option<C>,
}

impl<C: Clone> Connection<C> {
    pub(super) fn new(endpoint: &Endpoint, make: fn(&SdkConfig, &Endpoint) -> C) -> Self {
        Self { endpoint: endpoint.clone(), http: http::client(), make, client: None }
    }

    /// To a server of a test, until the client is thrown away.
    #[cfg(test)]
    pub(super) fn to(url: &str, path_style: bool, make: fn(&SdkConfig, &Endpoint) -> C) -> Self {
        let endpoint = Endpoint { region: "eu-west-1".to_owned(), path_style, ..Endpoint::default() };
        let keys = aws_credential_types::Credentials::new("AKIDEXAMPLE", "s3cr3t", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .endpoint_url(url)
            .http_client(http::direct_client())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts(ATTEMPT))
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(keys))
            .build();
        let mut connection = Self::new(&endpoint, make);
        connection.client = Some(make(&config, &endpoint));
        connection
    }

    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        self.client.is_some()
    }

    pub(super) async fn client(&mut self) -> C {
        if let Some(client) = &self.client {
            return client.clone();
        }
        let client = (self.make)(&config(&self.endpoint, &self.http).await, &self.endpoint);
        self.client.insert(client).clone()
    }

    /// Takes notice of how a call went.
    pub(super) fn settle(&mut self, outcome: &Outcome) {
        let stale = match outcome {
            Outcome::Done | Outcome::Fatal(_) => false,
            Outcome::Retry(fault) => error::asks_for_credentials(&fault.code),
            // A person may have mended anything.
            Outcome::Refuse(_) => true,
        };
        if stale {
            self.client = None;
        }
    }
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(attempt).build()
}

/// For a call that sends this much: a line of 50 kB/s is slow and not dead.
pub(super) fn timeouts_for(bytes: usize) -> TimeoutConfig {
    timeouts(ATTEMPT + Duration::from_secs(bytes as u64 / 50_000))
}

async fn config(endpoint: &Endpoint, http: &SharedHttpClient) -> SdkConfig {
    let region = Region::new(endpoint.region.clone());
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region.clone())
        .http_client(http.clone())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(ATTEMPT))
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().build())
        .identity_cache(credentials::cache())
        .credentials_provider(credentials::provider(endpoint, region, http).await);
    if let Some(profile) = &endpoint.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(url) = &endpoint.url {
        loader = loader.endpoint_url(url);
    }
    loader.load().await
}
