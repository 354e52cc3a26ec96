//! A profile's `credential_process`. The SDK has one too, but it leaves a helper that hangs running, reads whatever
//! comes, and quotes the helper's words in its errors; chained profiles still go through that one.
//! Always: when an attempt is over the helper is gone, with all that it started; nothing that it said is in an error.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use aws_config::profile::{self, Profile};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as ProvideCredentialsFuture;
use aws_credential_types::provider::{self, ProvideCredentials};
use aws_types::os_shim_internal::{Env, Fs};
use jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(15);
/// Session tokens have a few kilobytes at most.
const ANSWER_BYTES: u64 = 1 << 16;
/// A profile with one of these gets its credentials another way.
const OTHER_SOURCES: [&str; 8] = [
    "role_arn",
    "credential_source",
    "web_identity_token_file",
    "sso_session",
    "sso_account_id",
    "sso_role_name",
    "sso_start_url",
    "login_session",
];

#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error("credential_process cannot be run: {0}")]
    Run(io::Error),
    #[error("credential_process ended with {0}; run it by hand to see why")]
    Ended(ExitStatus),
    #[error("credential_process gave no answer within {} s", .0.as_secs())]
    Hung(Duration),
    #[error("credential_process printed no credentials (JSON with Version 1, AccessKeyId and SecretAccessKey)")]
    Rubbish,
}

/// As `aws configure` documents it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

#[derive(Debug)]
pub(super) struct Helper {
    profile: Option<String>,
    /// Says where the files are.
    env: Env,
    limit: Duration,
}

impl Helper {
    /// Of this profile, or of the one that the environment selects.
    pub(super) fn of(profile: Option<&str>) -> Self {
        Self { profile: profile.map(str::to_owned), env: Env::real(), limit: LIMIT }
    }

    /// Reads the files each time: they may have been mended.
    async fn command(&self) -> Option<String> {
        let profile = self.profile.clone().map(Cow::Owned);
        let profiles = profile::load(&Fs::real(), &self.env, &Default::default(), profile).await.ok()?;
        let profile: &Profile = profiles.get_profile(profiles.selected_profile())?;
        if OTHER_SOURCES.iter().any(|key| profile.get(key).is_some()) {
            return None;
        }
        profile.get("credential_process").map(str::to_owned)
    }

    async fn load(&self) -> provider::Result {
        // What is wrong with the files is said by the SDK's own provider.
        let command = self.command().await.ok_or_else(CredentialsError::not_loaded_no_source)?;
        run(&command, self.limit).await.and_then(|answer| parse(&answer)).map_err(CredentialsError::provider_error)
    }
}

impl ProvideCredentials for Helper {
    fn provide_credentials<'a>(&'a self) -> ProvideCredentialsFuture<'a>
    where
        Self: 'a,
    {
        ProvideCredentialsFuture::new(self.load())
    }
}

/// A process group that ends with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

async fn run(command: &str, limit: Duration) -> Result<Vec<u8>, HelperError> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(HelperError::Run)?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    match timeout(limit, answer(&mut child)).await {
        Ok(Ok((status, answer))) => {
            // What it left running on purpose is its own affair.
            group.0 = None;
            if status.success() { Ok(answer) } else { Err(HelperError::Ended(status)) }
        }
        Ok(Err(error)) => Err(HelperError::Run(error)),
        Err(_) => {
            drop(group);
            // So that it does not stay a zombie.
            let _ = child.wait().await;
            Err(HelperError::Hung(limit))
        }
    }
}

async fn answer(child: &mut Child) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // One that never stops talking gets a broken pipe.
        stdout.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    }
    Ok((child.wait().await?, answer))
}

/// What is said of an answer that is none.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn judge(answer: &[u8]) -> Result<(), String> {
    parse(answer).map(drop).map_err(|error| error.to_string())
}

/// The parser's own errors would quote what they choke on.
fn parse(answer: &[u8]) -> Result<Credentials, HelperError> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| HelperError::Rubbish)?;
    if answer.version != 1 || answer.access_key_id.is_empty() || answer.secret_access_key.is_empty() {
        return Err(HelperError::Rubbish);
    }
    let expiry = answer.expiration.map(|text| text.parse::<Timestamp>().map(SystemTime::from)).transpose();
    let expiry = expiry.map_err(|_| HelperError::Rubbish)?;
    Ok(Credentials::new(
        answer.access_key_id,
        answer.secret_access_key,
        answer.session_token,
        expiry,
        "credential_process",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;
    use std::fs;
    use std::path::Path;
    use std::thread;
    use std::time::Instant;

    const GOOD: &str = r#"{"Version": 1, "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "s3cr3t", "SessionToken": "t0k3n", "Expiration": "2035-05-02T18:36:00+00:00"}"#;

    fn helper(directory: &Path, config: &str, limit: Duration) -> Helper {
        let path = directory.join("config");
        fs::write(&path, config).unwrap();
        let env = Env::from_slice(&[("AWS_CONFIG_FILE", path.to_str().unwrap()), ("HOME", "/nonexistent")]);
        Helper { profile: Some("host".to_owned()), env, limit }
    }

    fn load(helper: &Helper) -> provider::Result {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(helper.provide_credentials())
    }

    fn load_with(command: &str, limit: Duration) -> provider::Result {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("good.json"), GOOD).unwrap();
        let config = format!("[profile host]\ncredential_process = cd {} && {command}\n", directory.path().display());
        load(&helper(directory.path(), &config, limit))
    }

    #[test]
    fn takes_what_the_helper_prints() {
        let credentials = load_with("cat good.json", LIMIT).unwrap();
        assert_eq!(credentials.access_key_id(), "AKIDEXAMPLE");
        assert_eq!(credentials.secret_access_key(), "s3cr3t");
        assert_eq!(credentials.session_token(), Some("t0k3n"));
        let expiry = "2035-05-02T18:36:00Z".parse::<Timestamp>().unwrap();
        assert_eq!(credentials.expiry(), Some(SystemTime::from(expiry)));
    }

    #[test]
    fn errors_quote_nothing_that_the_helper_said() {
        let secret = "s3cr3t-of-the-helper";
        for (command, expected) in [
            (format!("echo {secret}"), "printed no credentials"),
            (format!("echo '\"{secret}\"'"), "printed no credentials"),
            (format!(r#"echo '{{"Version": 1, "AccessKeyId": 5, "SecretAccessKey": "{secret}"}}'"#), "printed no"),
            (
                format!(
                    r#"echo '{{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "{secret}"}}'"#
                ),
                "printed no",
            ),
            (format!(r#"echo '{{"Version": 2, "AccessKeyId": "a", "SecretAccessKey": "{secret}"}}'"#), "printed no"),
            (format!("echo {secret} >&2; echo {secret}; exit 7"), "ended with exit status: 7; run it by hand"),
            ("yes".to_owned(), "ended with"),
            ("true".to_owned(), "printed no credentials"),
            ("no-such-helper".to_owned(), "ended with exit status: 127"),
        ] {
            let error = load_with(&command, LIMIT).unwrap_err();
            let text = error.source().unwrap().to_string();
            assert!(text.contains(expected), "{command}: {text}");
            assert!(!format!("{error:?} {error} {text}").contains(secret), "{command}");
        }
    }

    /// Also not what it started.
    #[test]
    fn one_that_hangs_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        // The shell waits for a child of its own.
        let command = format!("sleep 600 & echo $$ $! > {}; wait", pids.display());
        let start = Instant::now();
        let error = load_with(&command, Duration::from_millis(500)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(error.source().unwrap().to_string(), "credential_process gave no answer within 0 s");
        for pid in fs::read_to_string(pids).unwrap().split_whitespace() {
            let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Gone, or waiting for init to take notice. A killed process may still be on its way out.
            let is_ended = |stat: &str| stat.is_empty() || stat.contains(") Z ");
            while !is_ended(&stat()) {
                assert!(start.elapsed() < Duration::from_secs(10), "{}", stat());
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn leaves_other_profiles_to_the_sdk() {
        let directory = tempfile::tempdir().unwrap();
        for config in [
            "[profile host]\nregion = eu-west-1\n",
            "[profile host]\ncredential_process = true\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = a\n",
            "[profile another]\ncredential_process = true\n",
            "rubbish",
        ] {
            let error = load(&helper(directory.path(), config, LIMIT)).unwrap_err();
            assert!(matches!(error, CredentialsError::CredentialsNotLoaded(_)), "{config}: {error:?}");
        }
    }
}
