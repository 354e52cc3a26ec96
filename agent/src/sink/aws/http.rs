//! The HTTP client under all calls.
#![forbid(unsafe_code)]

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// Through a proxy when the environment names one, as other AWS tools do.
pub(super) fn client() -> SharedHttpClient {
    with_proxy(ProxyConfig::from_env)
}

/// For the instance's metadata service, which is on the link.
pub(super) fn direct_client() -> SharedHttpClient {
    with_proxy(ProxyConfig::disabled)
}

fn with_proxy(proxy: fn() -> ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(proxy());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
    })
}
