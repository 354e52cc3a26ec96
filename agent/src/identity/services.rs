//! Which service of AWS an address belongs to, by AWS's own file (ip-ranges.json).
//! Must not know of records.
//! Always: a file that cannot be used changes nothing, and is said once; what was known goes on.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::fcntl::OFlag;
use prefix_trie::PrefixMap;
use serde::Deserialize;

/// AWS's has about 2 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServicesError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("is not AWS's ip-ranges.json: {0}")]
    Shape(#[from] serde_json::Error),
    #[error("is not AWS's ip-ranges.json: service {0:?} is not of letters, digits and _")]
    Name(String),
    #[error("is not a regular file")]
    NoFile,
    #[error("is larger than {} MiB", FILE_BYTES_MAX >> 20)]
    TooLarge,
    #[error("is not AWS's ip-ranges.json: it has no prefixes")]
    Empty,
}

/// As far as we read it.
#[derive(Deserialize)]
struct Document {
    prefixes: Vec<V4>,
    ipv6_prefixes: Vec<V6>,
}

#[derive(Deserialize)]
struct V4 {
    ip_prefix: Ipv4Net,
    service: String,
}

#[derive(Deserialize)]
struct V6 {
    ipv6_prefix: Ipv6Net,
    service: String,
}

pub(crate) struct Services {
    /// Each once; the maps have their places in here.
    names: Vec<String>,
    v4: PrefixMap<Ipv4Net, usize>,
    v6: PrefixMap<Ipv6Net, usize>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} services", self.names.len())
    }
}

/// Of several services on one prefix the one that says most, as AWS prints it: AMAZON is every one of them, EC2 is where
/// others run.
fn says_more(one: &str, other: &str) -> bool {
    let rank = |name: &str| match name {
        "AMAZON" => 2,
        "EC2" => 1,
        _ => 0,
    };
    (rank(one), one) < (rank(other), other)
}

impl Services {
    fn parse(text: &[u8]) -> Result<Self, ServicesError> {
        let Document { prefixes, ipv6_prefixes } = serde_json::from_slice(text)?;
        let v4 = prefixes.into_iter().map(|it| (IpNet::V4(it.ip_prefix.trunc()), it.service));
        let v6 = ipv6_prefixes.into_iter().map(|it| (IpNet::V6(it.ipv6_prefix.trunc()), it.service));
        let mut best: BTreeMap<IpNet, String> = BTreeMap::new();
        for (prefix, service) in v4.chain(v6) {
            if service.is_empty() || !service.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(ServicesError::Name(service));
            }
            match best.get_mut(&prefix) {
                Some(known) if says_more(&service, known) => *known = service,
                Some(_) => {}
                None => drop(best.insert(prefix, service)),
            }
        }
        if best.is_empty() {
            return Err(ServicesError::Empty);
        }
        let mut services = Self { names: Vec::new(), v4: PrefixMap::new(), v6: PrefixMap::new() };
        for (prefix, service) in best {
            let at = services.place(service);
            match prefix {
                IpNet::V4(v4) => drop(services.v4.insert(v4, at)),
                IpNet::V6(v6) => drop(services.v6.insert(v6, at)),
            }
        }
        Ok(services)
    }

    /// There are a few dozen.
    fn place(&mut self, service: String) -> usize {
        self.names.iter().position(|name| *name == service).unwrap_or_else(|| {
            self.names.push(service);
            self.names.len() - 1
        })
    }

    /// By the longest prefix.
    pub(crate) fn of(&self, address: IpAddr) -> Option<&str> {
        let place = match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&v4.into()).map(|(_, place)| *place),
            IpAddr::V6(v6) => self.v6.get_lpm(&v6.into()).map(|(_, place)| *place),
        };
        self.names.get(place?).map(String::as_str)
    }
}

/// The file, which somebody replaces now and then.
pub(crate) struct ServicesFile {
    path: PathBuf,
    /// What was looked at last. None: there was no file.
    stamp: Option<Stamp>,
    looked: bool,
}

/// What changes with a file: inode, length, and when it was written.
type Stamp = (u64, u64, i64, i64);

impl ServicesFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), stamp: None, looked: false }
    }

    /// To be called again and again. What it says now, if it is another file than before.
    pub(crate) fn poll(&mut self) -> Option<Arc<Services>> {
        let stamp = std::fs::metadata(&self.path).ok().map(|it| (it.ino(), it.len(), it.mtime(), it.mtime_nsec()));
        if std::mem::replace(&mut self.looked, true) && stamp == self.stamp {
            return None;
        }
        self.stamp = stamp;
        let path = self.path.display();
        match read(&self.path) {
            Ok(services) => {
                tracing::info!(%path, services = services.names.len(), "read the ranges of AWS's services");
                Some(Arc::new(services))
            }
            Err(error) => {
                tracing::warn!("ip-ranges '{path}': {error}; what was known of AWS's services goes on");
                None
            }
        }
    }
}

/// Of a regular file only, and no more than is allowed: everything waits meanwhile, and a pipe or a device has no end.
pub(crate) fn read(path: &Path) -> Result<Services, ServicesError> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ServicesError::NoFile);
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ServicesError::TooLarge);
    }
    Services::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"syncToken": "1", "createDate": "2026-01-01-00-00-00", "prefixes": [
        {"ip_prefix": "3.5.140.0/22", "region": "ap-northeast-2", "service": "AMAZON", "network_border_group": "a"},
        {"ip_prefix": "3.5.140.0/22", "region": "ap-northeast-2", "service": "S3", "network_border_group": "a"},
        {"ip_prefix": "3.5.140.0/22", "region": "ap-northeast-2", "service": "EC2", "network_border_group": "a"},
        {"ip_prefix": "3.0.0.0/8", "region": "GLOBAL", "service": "AMAZON", "network_border_group": "GLOBAL"},
        {"ip_prefix": "3.6.0.0/16", "region": "GLOBAL", "service": "EC2", "network_border_group": "GLOBAL"},
        {"ip_prefix": "3.6.0.0/16", "region": "GLOBAL", "service": "AMAZON", "network_border_group": "GLOBAL"}],
        "ipv6_prefixes": [
        {"ipv6_prefix": "2600:9000::/28", "region": "GLOBAL", "service": "CLOUDFRONT", "network_border_group": "GLOBAL"}]}"#;

    #[test]
    fn the_longest_prefix_and_the_most_telling_service() {
        let services = Services::parse(FILE.as_bytes()).unwrap();
        for (address, service) in [
            ("3.5.140.1", Some("S3")),
            ("3.5.143.255", Some("S3")),
            ("3.5.144.0", Some("AMAZON")),
            ("3.6.7.8", Some("EC2")),
            ("4.0.0.0", None),
            ("2600:9000::1", Some("CLOUDFRONT")),
            ("2600:9010::1", None),
            ("::ffff:3.5.140.1", None),
        ] {
            assert_eq!(services.of(address.parse().unwrap()), service, "{address}");
        }
    }

    #[test]
    fn a_broken_file_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ip-ranges.json");
        let mut file = ServicesFile::new(&path);
        assert!(file.poll().is_none());
        std::fs::write(&path, FILE).unwrap();
        assert_eq!(file.poll().unwrap().of([3, 6, 0, 1].into()), Some("EC2"));
        assert!(file.poll().is_none());
        for broken in ["", "{}", &FILE[..400], &FILE.replace("CLOUDFRONT", "A B"), &FILE.replace("/28", "/129")] {
            std::fs::write(&path, broken).unwrap();
            assert!(file.poll().is_none(), "{broken}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(file.poll().is_none());
        // Neither is waited for.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(file.poll().is_none());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(file.poll().is_none());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, FILE.replace("\"EC2\"", "\"EBS\"")).unwrap();
        assert_eq!(file.poll().unwrap().of([3, 6, 0, 1].into()), Some("EBS"));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, said) in [
            ("[]", "is not AWS's ip-ranges.json: "),
            (r#"{"prefixes": [], "ipv6_prefixes": []}"#, "is not AWS's ip-ranges.json: it has no prefixes"),
            (&FILE.replace("\"S3\"", "\"S 3\""), "is not AWS's ip-ranges.json: service \"S 3\" is not of letters"),
        ] {
            let error = Services::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
