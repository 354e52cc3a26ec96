//! What an error of an AWS call means: whether it passes, and else what a person has to do.
//! Knows no operation. Always: one line, and no more of AWS's text than its first line, for signature errors go on with
//! the request, tokens and all.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::imds::client::error::TokenError;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::date_time::{DateTime, Format};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::super::{Fault, Outcome};

/// AWS takes five minutes; what is nearer is not the cause.
const SKEW_SECONDS: i64 = 240;
const MESSAGE_CHARS: usize = 300;

/// New credentials may mend it.
const CREDENTIALS: [&str; 7] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "ExpiredSecurityToken",
    "InvalidToken",
    "RequestExpired",
    "TokenRefreshRequired",
    NO_CREDENTIALS,
];
/// Our own word for what came of looking for credentials.
const NO_CREDENTIALS: &str = "credentials";

/// Come with a clock that is wrong, among others.
const SIGNATURE: [&str; 5] =
    ["RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidSignatureException", "RequestExpired", "AuthFailure"];

/// Pass by themselves whatever the status, which some services have at 400; other 5xx do too.
const TRANSIENT: [&str; 27] = [
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "SlowDown",
    "RequestTimeout",
    "RequestTimeoutException",
    "RequestTimeTooSkewed",
    "OperationAborted",
    "OperationAbortedException",
    "TemporaryRedirect",
    "IncompleteBody",
    "BadDigest",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
];

/// The bucket is in another region.
const ELSEWHERE: [&str; 4] =
    ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"];

const GRANT: &str = "grant it to these credentials; flowlogd check --iam-policy prints the policy";
const KEYS: &str = "check the access key, secret and session token that these credentials are from";
const KEY: &str = "check that the KMS key is there, enabled, and usable by these credentials";
const ARGUMENT: &str = "check the flow log's destination settings";
const ADVICE: [(&str, &str); 24] = [
    ("AccessDenied", GRANT),
    ("AccessDeniedException", GRANT),
    ("UnauthorizedOperation", GRANT),
    ("Forbidden", GRANT),
    ("403", GRANT),
    ("AllAccessDisabled", "AWS has closed the bucket; ask its owner"),
    ("AccountProblem", "AWS has closed the account; ask its owner"),
    ("OptInRequired", "sign the account up for the service or the region"),
    ("NotSignedUp", "sign the account up for the service"),
    ("NoSuchBucket", "make the bucket, or correct log-destination"),
    ("InvalidBucketName", "correct log-destination"),
    ("ResourceNotFoundException", "make what log-destination names, or correct it and the region"),
    ("LimitExceededException", "have the account's quota raised"),
    ("InvalidSourceException", "the stream must take direct PUT"),
    ("AccessControlListNotSupported", "the bucket has no ACLs: leave bucket-owner-full-control out"),
    ("InvalidKMSResourceException", KEY),
    ("UnrecognizedClientException", KEYS),
    ("InvalidAccessKeyId", KEYS),
    ("InvalidClientTokenId", KEYS),
    ("SignatureDoesNotMatch", KEYS),
    ("InvalidSignatureException", KEYS),
    ("IncompleteSignature", KEYS),
    ("MissingAuthenticationToken", KEYS),
    ("404", ARGUMENT),
];

/// What a response says.
#[derive(Debug, Default)]
struct Facts {
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
    /// Where the bucket is.
    region: Option<String>,
    /// The service's clock less ours, seconds.
    skew: Option<i64>,
    retry_after: Option<Duration>,
}

/// Whether to look for credentials anew before the next attempt.
pub(super) fn asks_for_credentials(code: &str) -> bool {
    CREDENTIALS.contains(&code)
}

pub(in crate::sink) fn outcome<E>(error: &SdkError<E, HttpResponse>) -> Outcome
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let meta = service.err().meta();
            judge(facts(service.raw(), meta.code(), meta.message(), SystemTime::now()))
        }
        SdkError::ConstructionFailure(_) => {
            Outcome::Refuse(Fault::new("request", format!("{}; {ARGUMENT}", causes(error))))
        }
        SdkError::TimeoutError(_) => Outcome::Retry(Fault::new("timeout", "no answer in time")),
        // An answer that broke off or is none of AWS's.
        SdkError::ResponseError(response) if response.raw().status().as_u16() < 400 => {
            Outcome::Retry(Fault::new("response", causes(error)))
        }
        SdkError::ResponseError(response) => judge(facts(response.raw(), None, None, SystemTime::now())),
        _ => match find::<CredentialsError>(error) {
            Some(error) => no_credentials(error),
            None => not_sent(error),
        },
    }
}

fn facts(response: &HttpResponse, code: Option<&str>, message: Option<&str>, now: SystemTime) -> Facts {
    let headers: &Headers = response.headers();
    let first_line = |text: &str| -> String {
        text.lines().next().unwrap_or_default().trim().trim_end_matches('.').chars().take(MESSAGE_CHARS).collect()
    };
    let date = headers.get("date").and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    Facts {
        status: Some(response.status().as_u16()),
        code: code.filter(|code| !code.is_empty()).map(str::to_owned),
        message: message.map(first_line).filter(|line| !line.is_empty()),
        region: headers.get("x-amz-bucket-region").map(str::to_owned),
        skew: date.map(|date| date.secs() - now),
        retry_after: headers.get("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
    }
}

fn judge(facts: Facts) -> Outcome {
    let Facts { status, code, message, region, skew, retry_after } = facts;
    let status = status.unwrap_or_default();
    let code = code.unwrap_or_else(|| status.to_string());
    let message = message.unwrap_or_else(|| format!("HTTP status {status}"));
    let fault = |message: String| Fault { code: code.clone(), message, retry_after };
    if let Some(skew) = skew.filter(|skew| skew.abs() >= SKEW_SECONDS && SIGNATURE.contains(&code.as_str())) {
        let side = if skew > 0 { "behind" } else { "ahead of" };
        return Outcome::Retry(fault(format!("this host's clock is {} s {side} AWS's; set it", skew.abs())));
    }
    let transient = status >= 500 || matches!(status, 408 | 429);
    if asks_for_credentials(&code) || TRANSIENT.contains(&code.as_str()) || transient {
        return Outcome::Retry(fault(message));
    }
    if ELSEWHERE.contains(&code.as_str()) {
        let there = region.or_else(|| region_in(&message)).unwrap_or_else(|| "the bucket's own".to_owned());
        return Outcome::Refuse(fault(format!("the bucket is in another region; set the region to {there}")));
    }
    let advice = match ADVICE.iter().find(|(known, _)| *known == code) {
        Some((_, advice)) => advice,
        None if code.starts_with("KMS.") => KEY,
        None => ARGUMENT,
    };
    Outcome::Refuse(fault(format!("{message}; {advice}")))
}

/// `… the region 'us-east-1' is wrong; expecting 'eu-west-1'`
fn region_in(message: &str) -> Option<String> {
    message.split_once("expecting '")?.1.split_once('\'').map(|(region, _)| region.to_owned())
}

pub(super) fn no_credentials(error: &CredentialsError) -> Outcome {
    let why = error.source().map(causes_of).unwrap_or_default();
    let none = "no credentials found; give keys or a profile in the environment of the service, or an instance role";
    match error {
        CredentialsError::CredentialsNotLoaded(_) => Outcome::Refuse(Fault::new(NO_CREDENTIALS, none)),
        _ if metadata_is_closed(error) => Outcome::Refuse(Fault::new(NO_CREDENTIALS, none)),
        CredentialsError::InvalidConfiguration(_) => {
            Outcome::Refuse(Fault::new(NO_CREDENTIALS, format!("{why}; correct the AWS configuration files")))
        }
        CredentialsError::ProviderTimedOut(_) => {
            Outcome::Retry(Fault::new(NO_CREDENTIALS, "no credentials came in time"))
        }
        _ => Outcome::Retry(Fault::new(NO_CREDENTIALS, why)),
    }
}

/// The instance's metadata service, where the chain looks last, is not for us.
fn metadata_is_closed(error: &CredentialsError) -> bool {
    let refusal = find::<SdkError<TokenError, HttpResponse>>(error).and_then(|error| error.raw_response());
    refusal.is_some_and(|response| response.status().is_client_error())
}

/// Nothing came back.
fn not_sent<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> Outcome {
    let why = causes(error);
    if let SdkError::DispatchFailure(failure) = error
        && failure.is_timeout()
    {
        return Outcome::Retry(Fault::new("timeout", "no connection in time"));
    }
    if why.contains("dns error") || why.contains("failed to lookup address") {
        return Outcome::Retry(Fault::new("dns", format!("{why}; the network, or a wrong region or endpoint-url")));
    }
    if why.contains("invalid peer certificate") {
        return Outcome::Refuse(Fault::new(
            "tls",
            format!("{why}; install the CA certificates, and check the clock and endpoint-url"),
        ));
    }
    Outcome::Retry(Fault::new("connection", why))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// Without the SDK's own words for the kind of error.
fn causes<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> String {
    error.source().map(causes_of).unwrap_or_else(|| error.to_string())
}

/// An error and what caused it, in one line; of what a helper said on its standard error nothing.
fn causes_of(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for error in chain(error) {
        let text = error.to_string();
        let text = text.split("Stderr:").next().unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // Many say what their cause says.
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ").chars().take(MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_config::imds;
    use aws_config::imds::credentials::ImdsCredentialsProvider;
    use aws_config::provider_config::ProviderConfig;
    use aws_config::timeout::TimeoutConfig;
    use aws_config::{BehaviorVersion, Region};
    use aws_credential_types::Credentials;
    use aws_credential_types::credential_fn::provide_credentials_fn;
    use aws_sdk_s3::config::{Builder, SharedCredentialsProvider};
    use aws_smithy_types::body::SdkBody;
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::super::http;
    use crate::sink::test_server::{self, Answer};

    const RETRY: &str = "retry";
    const REFUSE: &str = "refuse";

    fn taken_apart(outcome: Outcome) -> (&'static str, Fault) {
        match outcome {
            Outcome::Retry(fault) => (RETRY, fault),
            Outcome::Refuse(fault) => (REFUSE, fault),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn by_code_and_status() {
        for (status, code, expected, says) in [
            // Throttling and their own faults.
            (503, "SlowDown", RETRY, ""),
            (400, "ThrottlingException", RETRY, ""),
            (400, "ProvisionedThroughputExceededException", RETRY, ""),
            (429, "", RETRY, ""),
            (500, "InternalError", RETRY, ""),
            (503, "ServiceUnavailableException", RETRY, ""),
            (400, "ServiceUnavailableException", RETRY, ""),
            (400, "InternalFailure", RETRY, ""),
            (502, "", RETRY, "HTTP status 502"),
            (400, "RequestTimeout", RETRY, ""),
            (408, "", RETRY, ""),
            (409, "OperationAborted", RETRY, ""),
            (400, "OperationAbortedException", RETRY, ""),
            (307, "TemporaryRedirect", RETRY, ""),
            // Credentials that can be fetched anew.
            (400, "ExpiredToken", RETRY, ""),
            (400, "ExpiredTokenException", RETRY, ""),
            (400, "InvalidToken", RETRY, ""),
            (403, "RequestExpired", RETRY, ""),
            // The clock, without a date to hold it against.
            (403, "RequestTimeTooSkewed", RETRY, ""),
            // Needs a person.
            (403, "AccessDenied", REFUSE, "AWS's words; grant it"),
            (400, "AccessDeniedException", REFUSE, "grant it"),
            (403, "", REFUSE, "HTTP status 403; grant it"),
            (404, "NoSuchBucket", REFUSE, "make the bucket"),
            (301, "PermanentRedirect", REFUSE, "set the region to eu-west-1"),
            (301, "", REFUSE, "set the region to eu-west-1"),
            (400, "AuthorizationHeaderMalformed", REFUSE, "set the region to eu-west-1"),
            (400, "ResourceNotFoundException", REFUSE, "make what log-destination names"),
            (400, "UnrecognizedClientException", REFUSE, "check the access key"),
            (403, "InvalidAccessKeyId", REFUSE, "check the access key"),
            (403, "SignatureDoesNotMatch", REFUSE, "check the access key"),
            (400, "KMS.DisabledException", REFUSE, "KMS key"),
            (400, "InvalidKMSResourceException", REFUSE, "KMS key"),
            (400, "AccessControlListNotSupported", REFUSE, "bucket-owner-full-control"),
            (400, "LimitExceededException", REFUSE, "quota"),
            // Unknown: nothing is dropped, and a person is told.
            (400, "SomethingNew", REFUSE, "AWS's words; check the flow log's destination settings"),
            (404, "", REFUSE, "HTTP status 404; check"),
            (200, "SomethingNew", REFUSE, "check"),
            (500, "SomethingNew", RETRY, "AWS's words"),
        ] {
            let facts = Facts {
                status: Some(status),
                code: (!code.is_empty()).then(|| code.to_owned()),
                message: (!code.is_empty()).then(|| "AWS's words".to_owned()),
                region: Some("eu-west-1".to_owned()),
                ..Facts::default()
            };
            let (what, fault) = taken_apart(judge(facts));
            assert_eq!(what, expected, "{status} {code}");
            assert!(fault.message.contains(says), "{status} {code}: {}", fault.message);
            assert_eq!(fault.code, if code.is_empty() { status.to_string() } else { code.to_owned() });
            assert!(!fault.message.contains('\n'));
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_named() {
        for (code, skew, expected, says) in [
            ("RequestTimeTooSkewed", 3600, RETRY, "clock is 3600 s behind AWS's"),
            ("SignatureDoesNotMatch", -901, RETRY, "clock is 901 s ahead of AWS's"),
            ("InvalidSignatureException", 300, RETRY, "behind"),
            ("SignatureDoesNotMatch", 10, REFUSE, "check the access key"),
            ("AccessDenied", 3600, REFUSE, "grant it"),
        ] {
            let facts = Facts { status: Some(403), code: Some(code.to_owned()), skew: Some(skew), ..Facts::default() };
            let (what, fault) = taken_apart(judge(facts));
            assert_eq!(what, expected, "{code} {skew}");
            assert!(fault.message.contains(says), "{code} {skew}: {}", fault.message);
        }
    }

    #[test]
    fn facts_of_a_response() {
        let mut response = HttpResponse::new(403.try_into().unwrap(), SdkBody::empty());
        response.headers_mut().insert("date", "Thu, 01 Jan 1970 01:00:00 GMT");
        response.headers_mut().insert("x-amz-bucket-region", "eu-west-1");
        response.headers_mut().insert("retry-after", "7");
        let now = UNIX_EPOCH + Duration::from_secs(600);
        let message = "The request signature we calculated does not match.\n\nThe Canonical String for this request \
                       should have been\n'POST\n/\n\nx-amz-security-token:t0k3n";
        let facts = facts(&response, Some("InvalidSignatureException"), Some(message), now);
        assert_eq!(facts.message.as_deref(), Some("The request signature we calculated does not match"));
        assert_eq!(
            (facts.status, facts.skew, facts.retry_after),
            (Some(403), Some(3000), Some(Duration::from_secs(7)))
        );
        assert_eq!(facts.region.as_deref(), Some("eu-west-1"));
        let message = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        assert_eq!(region_in(message).as_deref(), Some("eu-west-1"));
        assert_eq!(region_in("the region is wrong"), None);
    }

    /// What a put to `url` with these credentials comes to.
    fn put(url: &str, credentials: impl aws_credential_types::provider::ProvideCredentials + 'static) -> Outcome {
        let config = Builder::new()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .endpoint_url(url)
            .force_path_style(true)
            .http_client(http::direct_client())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(500)).build());
        let client = aws_sdk_s3::Client::from_conf(config.build());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sent = runtime.block_on(client.put_object().bucket("b").key("k").send());
        outcome(&sent.unwrap_err())
    }

    fn keys() -> Credentials {
        Credentials::new("AKIDEXAMPLE", "s3cr3t", None, None, "test")
    }

    #[test]
    fn credentials_that_do_not_come() {
        let failing = |error: fn() -> CredentialsError| provide_credentials_fn(move || async move { Err(error()) });
        let put = |error| taken_apart(put("http://127.0.0.1:1", failing(error)));
        let (what, fault) = put(CredentialsError::not_loaded_no_source);
        assert_eq!((what, fault.code.as_str()), (REFUSE, "credentials"));
        assert!(fault.message.starts_with("no credentials found; give keys"), "{}", fault.message);
        let (what, fault) = put(|| CredentialsError::invalid_configuration("profile x is a loop"));
        assert_eq!(what, REFUSE);
        assert_eq!(fault.message, "profile x is a loop; correct the AWS configuration files");
        let (what, fault) = put(|| CredentialsError::provider_timed_out(Duration::from_secs(20)));
        assert_eq!((what, fault.message.as_str()), (RETRY, "no credentials came in time"));
        // The SDK's own provider for helpers quotes them.
        let (what, fault) = put(|| CredentialsError::provider_error("exited with code 1. Stderr: s3cr3t\nmore"));
        assert_eq!((what, fault.message.as_str()), (RETRY, "exited with code 1."));
        assert!(asks_for_credentials(&fault.code));
    }

    #[test]
    fn the_metadata_service_says_no() {
        for (status, expected) in [(403, REFUSE), (500, RETRY)] {
            let url = test_server::start(move |_| Answer { status, headers: Vec::new(), body: String::new() });
            let config = ProviderConfig::without_region().with_http_client(http::direct_client());
            let client = imds::Client::builder().configure(&config).endpoint(url).unwrap().max_attempts(1).build();
            let provider = ImdsCredentialsProvider::builder().configure(&config).imds_client(client).build();
            let (what, fault) = taken_apart(put("http://127.0.0.1:1", provider));
            assert_eq!((what, fault.code.as_str()), (expected, "credentials"), "{status}");
        }
    }

    #[test]
    fn what_does_not_get_through() {
        let (what, fault) = taken_apart(put("http://127.0.0.1:1", keys()));
        assert_eq!((what, fault.code.as_str()), (RETRY, "connection"));
        assert!(fault.message.contains("Connection refused"), "{}", fault.message);
        let (what, fault) = taken_apart(put("http://host.invalid", keys()));
        assert_eq!((what, fault.code.as_str()), (RETRY, "dns"));
        // Takes connections, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let (what, fault) = taken_apart(put(&format!("http://{}", silent.local_addr().unwrap()), keys()));
        assert_eq!((what, fault.code.as_str()), (RETRY, "timeout"));
        // Hangs up.
        let rude = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", rude.local_addr().unwrap());
        let server = std::thread::spawn(move || rude.accept().unwrap().0.read(&mut [0; 10]).unwrap());
        let (what, fault) = taken_apart(put(&url, keys()));
        assert_eq!((what, fault.code.as_str()), (RETRY, "connection"), "{}", fault.message);
        server.join().unwrap();
    }
}
