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

use super::aws::{self, Connection, error};
use super::{Fault, Outcome};
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
            // Every S3 says what it has; a proxy or a portal on the way answers 200 to anything.
            Ok(answer) if answer.e_tag().is_none() => {
                let why =
                    "the answer to PutObject has no ETag: endpoint-url is no S3 service, or a proxy answers for it";
                Outcome::Refuse(Fault::new("response", why))
            }
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
    use super::super::test_server::{self, Answer, Request};
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn tags_are_a_query_string() {
        let tags =
            BTreeMap::from([("Cost Center".to_owned(), "a&b=c/é+".to_owned()), ("env".to_owned(), String::new())]);
        assert_eq!(tagging(&tags), "Cost%20Center=a%26b%3Dc%2F%C3%A9%2B&env=");
    }

    fn settings() -> flow_log::S3 {
        flow_log::S3 {
            bucket: "bucket".to_owned(),
            folder: "folder".to_owned(),
            layout: flow_log::Layout::default(),
            kms_key: None,
            bucket_owner_full_control: false,
            endpoint: Endpoint::default(),
        }
    }

    /// What came of a put, the request, and whether the client was kept.
    fn put(
        settings: &flow_log::S3,
        tags: &BTreeMap<String, String>,
        answer: fn() -> Answer,
    ) -> (Outcome, Request, bool) {
        let (sender, requests) = mpsc::channel();
        let url = test_server::start(move |request| {
            sender.send(request.clone()).unwrap();
            answer()
        });
        let mut s3 = S3::new(settings, tags);
        s3.connection = Connection::to(&url, true, make);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(s3.put("folder/AWSLogs/k.log.gz", Bytes::from_static(b"123456789")));
        (outcome, requests.recv().unwrap(), s3.connection.is_open())
    }

    fn stored() -> Answer {
        Answer { headers: vec![("ETag", "\"9a0364b9e99bb480dd25e1f0284c8555\"".to_owned())], ..Answer::ok("") }
    }

    /// As a captive portal does.
    #[test]
    fn an_answer_that_is_not_of_s3() {
        let (outcome, ..) = put(&settings(), &BTreeMap::new(), || Answer::ok("<html>Welcome</html>"));
        let Outcome::Refuse(fault) = outcome else { panic!("{outcome:?}") };
        assert_eq!(fault.code, "response");
    }

    #[test]
    fn a_plain_object() {
        let (outcome, request, _) = put(&settings(), &BTreeMap::new(), stored);
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("PUT", "/bucket/folder/AWSLogs/k.log.gz?x-id=PutObject")
        );
        assert_eq!(request.body, b"123456789");
        assert_eq!(request.header("content-type"), Some("application/octet-stream"));
        // CRC-32's check value, 0xCBF43926, in base 64.
        assert_eq!(request.header("x-amz-checksum-crc32"), Some("y/Q5Jg=="));
        for absent in
            ["x-amz-tagging", "x-amz-acl", "x-amz-server-side-encryption", "if-none-match", "content-encoding"]
        {
            assert_eq!(request.header(absent), None, "{absent}");
        }
    }

    #[test]
    fn with_all_options() {
        let key = "arn:aws:kms:eu-west-1:123456789012:key/k";
        let settings = flow_log::S3 { kms_key: Some(key.to_owned()), bucket_owner_full_control: true, ..settings() };
        let tags = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let (outcome, request, is_open) = put(&settings, &tags, stored);
        assert_eq!((outcome, is_open), (Outcome::Done, true));
        for (name, value) in [
            ("x-amz-tagging", "env=prod"),
            ("x-amz-acl", "bucket-owner-full-control"),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-aws-kms-key-id", key),
        ] {
            assert_eq!(request.header(name), Some(value), "{name}");
        }
    }

    fn xml(status: u16, code: &str, headers: Vec<(&'static str, String)>) -> Answer {
        Answer { status, headers, body: format!("<Error><Code>{code}</Code><Message>Words</Message></Error>") }
    }

    #[test]
    fn refused() {
        let elsewhere = || xml(301, "PermanentRedirect", vec![("x-amz-bucket-region", "us-west-2".to_owned())]);
        let (outcome, _, is_open) = put(&settings(), &BTreeMap::new(), elsewhere);
        let says = "the bucket is in another region; set the region to us-west-2";
        assert_eq!((outcome, is_open), (Outcome::Refuse(Fault::new("PermanentRedirect", says)), false));
        let (outcome, ..) = put(&settings(), &BTreeMap::new(), || xml(404, "NoSuchBucket", vec![]));
        let says = "Words; make the bucket, or correct log-destination";
        assert_eq!(outcome, Outcome::Refuse(Fault::new("NoSuchBucket", says)));
    }

    #[test]
    fn passes() {
        let (outcome, _, is_open) = put(&settings(), &BTreeMap::new(), || xml(503, "SlowDown", vec![]));
        assert_eq!((outcome, is_open), (Outcome::Retry(Fault::new("SlowDown", "Words")), true));
        // Looked for anew.
        let (outcome, _, is_open) = put(&settings(), &BTreeMap::new(), || xml(400, "ExpiredToken", vec![]));
        assert_eq!((outcome, is_open), (Outcome::Retry(Fault::new("ExpiredToken", "Words")), false));
        let skewed = || xml(403, "RequestTimeTooSkewed", vec![("date", "Thu, 01 Jan 2015 00:00:00 GMT".to_owned())]);
        let (Outcome::Retry(fault), _, is_open) = put(&settings(), &BTreeMap::new(), skewed) else { panic!() };
        assert!(
            fault.message.starts_with("this host's clock is ") && fault.message.ends_with(" s ahead of AWS's; set it")
        );
        // It has learned what the time is.
        assert!(is_open);
        // A proxy's words.
        let page = || Answer { status: 502, headers: vec![], body: "<html>Bad gateway".to_owned() };
        let (outcome, ..) = put(&settings(), &BTreeMap::new(), page);
        assert_eq!(outcome, Outcome::Retry(Fault::new("502", "HTTP status 502")));
    }
}
