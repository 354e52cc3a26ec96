//! As whom we come: AWS's default chain, bounded in time.
//! Always: on a host without a metadata service it is looked for once, for a second.
#![forbid(unsafe_code)]

use std::time::Duration;

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::identity::IdentityCache;
use aws_config::imds;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as ProvideCredentialsFuture;
use aws_credential_types::provider::{self, ProvideCredentials};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::identity::SharedIdentityCache;
use tokio::time::timeout;

use super::helper::Helper;
use super::http;
use crate::flow_log::Endpoint;

/// All links of the chain together.
const LOAD: Duration = Duration::from_secs(20);
const METADATA: Duration = Duration::from_secs(1);

/// Its own limit would come as an error without a type.
pub(super) fn cache() -> SharedIdentityCache {
    IdentityCache::lazy().load_timeout(LOAD * 2).build()
}

/// A profile that is named in the configuration goes before the environment, as `--profile` does.
pub(super) async fn provider(endpoint: &Endpoint, region: Region, http: &SharedHttpClient) -> Bounded {
    let config = ProviderConfig::without_region()
        .with_region(Some(region.clone()))
        .with_http_client(http.clone())
        .with_retry_config(RetryConfig::disabled());
    let chain = if let Some(profile) = &endpoint.profile {
        let files = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile).build();
        CredentialsProviderChain::first_try("Helper", Helper::of(Some(profile))).or_else("Profile", files)
    } else {
        let direct = config.clone().with_http_client(http::direct_client());
        let metadata = imds::Client::builder()
            .configure(&direct)
            .max_attempts(1)
            .connect_timeout(METADATA)
            .read_timeout(METADATA)
            .build();
        let default =
            DefaultCredentialsChain::builder().configure(config).region(region).imds_client(metadata).build().await;
        CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
            .or_else("Helper", Helper::of(None))
            .or_else("Default", default)
    };
    Bounded(chain)
}

#[derive(Debug)]
pub(super) struct Bounded(CredentialsProviderChain);

impl Bounded {
    async fn load(&self) -> provider::Result {
        timeout(LOAD, self.0.provide_credentials())
            .await
            .unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(LOAD)))
    }
}

impl ProvideCredentials for Bounded {
    fn provide_credentials<'a>(&'a self) -> ProvideCredentialsFuture<'a>
    where
        Self: 'a,
    {
        ProvideCredentialsFuture::new(self.load())
    }
}
