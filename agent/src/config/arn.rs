//! Amazon Resource Names, as far as destinations are named by them.
#![forbid(unsafe_code)]

/// `arn:partition:service:region:account:resource`; region and account may be empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arn<'a> {
    pub(super) service: &'a str,
    pub(super) region: &'a str,
    pub(super) resource: &'a str,
}

impl<'a> Arn<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next();
        let (scheme, partition, service, region, _account, resource) =
            (next()?, next()?, next()?, next()?, next()?, next()?);
        // China and GovCloud have partitions of their own.
        let good = scheme == "arn" && (partition == "aws" || partition.starts_with("aws-")) && !resource.is_empty();
        good.then_some(Self { service, region, resource })
    }

    /// Bucket and folder, the folder without slashes at its ends.
    pub(super) fn bucket(&self) -> Option<(&'a str, &'a str)> {
        if self.service != "s3" || !self.region.is_empty() {
            return None;
        }
        let (bucket, folder) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let folder = folder.strip_suffix('/').unwrap_or(folder);
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = (3..=63).contains(&bucket.len())
            && bucket.chars().all(|c| edge(c) || matches!(c, '.' | '-'))
            && bucket.starts_with(edge)
            && bucket.ends_with(edge)
            && (folder.is_empty() || folder.split('/').all(|part| !part.is_empty()));
        good.then_some((bucket, folder))
    }

    /// The console gives it with `:*` at its end.
    pub(super) fn log_group(&self) -> Option<&'a str> {
        let group = self.resource.strip_prefix("log-group:")?;
        let group = group.strip_suffix(":*").unwrap_or(group);
        (self.service == "logs" && !self.region.is_empty() && is_log_group(group)).then_some(group)
    }

    /// Real ones have a slash, the API's model a colon.
    pub(super) fn delivery_stream(&self) -> Option<&'a str> {
        let name = self.resource.strip_prefix("deliverystream")?.strip_prefix(['/', ':'])?;
        let good = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        (self.service == "firehose" && !self.region.is_empty() && good).then_some(name)
    }

    /// S3 takes the bare id as well, which means another key in another account.
    pub(super) fn is_key(&self) -> bool {
        self.service == "kms" && !self.region.is_empty() && self.resource.starts_with("key/")
    }
}

pub(super) fn is_log_group(name: &str) -> bool {
    (1..=512).contains(&name.len())
        && !name.starts_with("aws/")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/#-".contains(&b))
}

/// The partition that a region is in.
pub(super) fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets() {
        for (arn, bucket) in [
            ("arn:aws:s3:::my-logs", Some(("my-logs", ""))),
            ("arn:aws:s3:::my-logs/", Some(("my-logs", ""))),
            ("arn:aws:s3:::my-logs/a/b/", Some(("my-logs", "a/b"))),
            ("arn:aws:s3:::my-logs/a/b", Some(("my-logs", "a/b"))),
            ("arn:aws-cn:s3:::my-logs", Some(("my-logs", ""))),
            ("arn:aws:s3:::my-logs//a", None),
            ("arn:aws:s3:::My-logs", None),
            ("arn:aws:s3:::-my", None),
            ("arn:aws:s3:::xy", None),
            ("arn:aws:s3:::", None),
            ("arn:aws:s3:eu-west-1:1:my-logs", None),
            ("arn:aws:sqs:::my-logs", None),
            ("s3://my-logs", None),
            ("my-logs", None),
        ] {
            assert_eq!(Arn::parse(arn).as_ref().and_then(Arn::bucket), bucket, "{arn}");
        }
    }

    #[test]
    fn groups_streams_keys() {
        let group = |arn| Arn::parse(arn).as_ref().and_then(Arn::log_group);
        assert_eq!(group("arn:aws:logs:eu-west-1:123456789012:log-group:/vpc/flow"), Some("/vpc/flow"));
        assert_eq!(group("arn:aws:logs:eu-west-1:123456789012:log-group:flow:*"), Some("flow"));
        assert_eq!(group("arn:aws:logs:eu-west-1:123456789012:log-group:aws/flow"), None);
        assert_eq!(group("arn:aws:logs::123456789012:log-group:flow"), None);
        let stream = |arn| Arn::parse(arn).as_ref().and_then(Arn::delivery_stream);
        assert_eq!(stream("arn:aws:firehose:eu-west-1:123456789012:deliverystream/s-1"), Some("s-1"));
        assert_eq!(stream("arn:aws:firehose:eu-west-1:123456789012:deliverystream:s-1"), Some("s-1"));
        assert_eq!(stream("arn:aws:firehose:eu-west-1:123456789012:stream/s-1"), None);
        let key = |arn| Arn::parse(arn).is_some_and(|arn| arn.is_key());
        assert!(key("arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"));
        assert!(!key("arn:aws:kms:eu-west-1:123456789012:alias/logs"));
    }
}
