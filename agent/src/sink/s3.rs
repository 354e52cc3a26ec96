//! Puts objects into an S3 bucket.
//! Must not know what is in an object or how its key came about.
//! Always: an object is there whole or not at all; the same key again takes the place of the former.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ObjectCannedAcl, ServerSideEncryption};
use bytes::Bytes;

use super::Outcome;
use super::aws::{self, Connection, error};
use crate::flow_log::{self, Endpoint};

pub(crate) struct S3 {
    settings: flow_log::S3,
    /// As the header wants them.
    tags: Option<String>,
    connection: Connection<Client>,
}

fn make(config: &SdkConfig, endpoint: &Endpoint) -> Client {
    Client::from_conf(Builder::from(config).force_path_style(endpoint.path_style).build())
}

impl S3 {
    pub(crate) fn new(settings: &flow_log::S3, tags: &BTreeMap<String, String>) -> Self {
        let tags = (!tags.is_empty()).then(|| tagging(tags));
        Self { settings: settings.clone(), tags, connection: Connection::new(&settings.endpoint, make) }
    }

    pub(crate) async fn put(&mut self, key: &str, body: Bytes) -> Outcome {
        let client = self.connection.client().await;
        let Self { settings, tags, .. } = self;
        let limits = Builder::default().timeout_config(aws::timeouts_for(body.len()));
        let sent = client
            .put_object()
            .bucket(&settings.bucket)
            .key(key)
            .content_type("application/octet-stream")
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_tagging(tags.clone())
            .set_acl(settings.bucket_owner_full_control.then_some(ObjectCannedAcl::BucketOwnerFullControl))
            .set_server_side_encryption(settings.kms_key.as_ref().map(|_| ServerSideEncryption::AwsKms))
            .set_ssekms_key_id(settings.kms_key.clone())
            .body(ByteStream::from(body))
            .customize()
            .config_override(limits)
            .send()
            .await;
        let outcome = match sent {
            Ok(_) => Outcome::Done,
            Err(error) => error::outcome(&error),
        };
        self.connection.settle(&outcome);
        outcome
    }
}

/// A query string.
fn tagging(tags: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = tags.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    pairs.join("&")
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_a_query_string() {
        let tags =
            BTreeMap::from([("Cost Center".to_owned(), "a&b=c/é+".to_owned()), ("env".to_owned(), String::new())]);
        assert_eq!(tagging(&tags), "Cost%20Center=a%26b%3Dc%2F%C3%A9%2B&env=");
    }
}
