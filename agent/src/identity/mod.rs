//! Who we say we are: account, region, and ids made up from what the host is.
//! Must not know where the machine id comes from, nor of flags.
//! Always: every value fits AWS's shape, holds no space, `/` or `_`, and is the same for the same input.
#![forbid(unsafe_code)]

pub(crate) mod asking;
pub(crate) mod imds;
pub(crate) mod kept;
pub(crate) mod mac;
pub(crate) mod services;

use sha2::{Digest, Sha256};

/// For hosts that belong to no account. No AWS account has it.
pub(crate) const STAND_IN_ACCOUNT_ID: &str = "000000000000";
/// For hosts outside AWS. Fits the shape of a region and is none.
pub(crate) const STAND_IN_REGION: &str = "on-prem-1";

/// Digits after `eni-` and `fl-` in today's AWS ids.
const ID_DIGITS: usize = 17;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("account id {0:?} is not 12 digits, such as 123456789012")]
    AccountId(String),
    #[error("region {0:?} is not of the shape word-word-digit or word-word-word-digit, such as us-east-1")]
    Region(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) account_id: String,
    pub(crate) region: String,
}

/// The stand-ins.
impl Default for Identity {
    fn default() -> Self {
        Self { account_id: STAND_IN_ACCOUNT_ID.to_owned(), region: STAND_IN_REGION.to_owned() }
    }
}

impl Identity {
    /// None takes the stand-in.
    pub(crate) fn new(account_id: Option<&str>, region: Option<&str>) -> Result<Self, IdentityError> {
        let account_id = account_id.unwrap_or(STAND_IN_ACCOUNT_ID);
        let region = region.unwrap_or(STAND_IN_REGION);
        if account_id.len() != 12 || !account_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(IdentityError::AccountId(account_id.to_owned()));
        }
        if !is_region(region) {
            return Err(IdentityError::Region(region.to_owned()));
        }
        Ok(Self { account_id: account_id.to_owned(), region: region.to_owned() })
    }
}

/// Flow log readers find the region in an object's name with `\w+-\w+-(\w+-)?\d`, between underscores.
fn is_region(region: &str) -> bool {
    let parts: Vec<&str> = region.split('-').collect();
    let [words @ .., number] = parts.as_slice() else { return false };
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    matches!(words.len(), 2 | 3)
        && words.iter().all(is_word)
        && number.len() == 1
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The same interface name on another host is another id; a hash also keeps the machine id to ourselves.
pub(crate) fn interface_id(machine_id: &str, name: &str) -> String {
    format!("eni-{}", hex_digest(&[machine_id.as_bytes(), b"\0", name.as_bytes()], ID_DIGITS))
}

/// Give everything that makes two flow logs of one host different.
pub(crate) fn flow_log_id(parts: &[&str]) -> String {
    let separated: Vec<&[u8]> = parts.iter().flat_map(|part| [part.as_bytes(), b"\0"]).collect();
    format!("fl-{}", hex_digest(&separated, ID_DIGITS))
}

/// First `digits` of the SHA-256 of the parts one after another.
pub(crate) fn hex_digest(parts: &[&[u8]], digits: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let nibbles = hash.finalize().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.take(digits).filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_ids() {
        for (value, good) in [
            ("123456789012", true),
            ("000000000000", true),
            ("12345678901", false),
            ("1234567890123", false),
            ("12345678901x", false),
            ("１23456789", false),
            ("", false),
        ] {
            assert_eq!(Identity::new(Some(value), None).is_ok(), good, "{value}");
        }
        let error = Identity::new(Some("1 2\n"), None).unwrap_err().to_string();
        assert_eq!(error, r#"account id "1 2\n" is not 12 digits, such as 123456789012"#);
    }

    #[test]
    fn regions() {
        for (value, good) in [
            ("us-east-1", true),
            ("us-gov-west-1", true),
            ("on-prem-1", true),
            ("us-east-12", false),
            ("us-east-", false),
            ("us--1", false),
            ("us-1", false),
            ("a-b-c-d-1", false),
            ("us_x-east-1", false),
            ("us/x-east-1", false),
            ("us x-east-1", false),
            ("", false),
        ] {
            assert_eq!(Identity::new(None, Some(value)).is_ok(), good, "{value}");
        }
    }

    #[test]
    fn ids() {
        // printf abc | sha256sum
        assert_eq!(hex_digest(&[b"ab", b"c"], 8), "ba7816bf");
        let id = interface_id("m", "eth0");
        assert_eq!(id, format!("eni-{}", hex_digest(&[b"m\0eth0"], 17)));
        assert_eq!(id.len(), 21);
        assert_ne!(id, interface_id("n", "eth0"));
        assert_ne!(id, interface_id("m", "eth1"));
        assert_eq!(flow_log_id(&["a", "b"]).len(), 20);
        assert_ne!(flow_log_id(&["a", "b"]), flow_log_id(&["ab"]));
    }
}
