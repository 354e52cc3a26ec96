//! What EC2's instance metadata service (IMDSv2) says of this host.
//! Knows nothing of what is configured. Off EC2 it asks nobody; on EC2 it waits only so long.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aws_config::imds::client::{Client, error::ImdsError};
use aws_config::provider_config::ProviderConfig;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::mac::{self, Mac};

/// For the token and the first answer: where there is no service, nothing answers at all.
const PROBE: Duration = Duration::from_secs(1);
/// For the rest, of a service that has answered.
const REST: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Imds {
    pub(crate) account_id: String,
    pub(crate) region: String,
    pub(crate) az_id: Option<String>,
    pub(crate) instance_id: String,
    /// Address of the interface that came with the instance.
    pub(crate) primary: Option<Mac>,
    pub(crate) interfaces: BTreeMap<Mac, Interface>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) interface_id: String,
    pub(crate) vpc_id: String,
    pub(crate) subnet_id: String,
    /// The primary one first, IPv6 last.
    pub(crate) vpc_cidrs: Vec<IpNet>,
    pub(crate) subnet_cidrs: Vec<IpNet>,
}

impl Imds {
    pub(crate) fn primary(&self) -> Option<&Interface> {
        self.interfaces.get(self.primary.as_ref()?)
    }

    /// Of all interfaces, those of the primary one first.
    pub(crate) fn vpc_cidrs(&self) -> Vec<IpNet> {
        self.union(|interface| &interface.vpc_cidrs)
    }

    pub(crate) fn subnet_cidrs(&self) -> Vec<IpNet> {
        self.union(|interface| &interface.subnet_cidrs)
    }

    fn union(&self, of: impl Fn(&Interface) -> &Vec<IpNet>) -> Vec<IpNet> {
        let mut all: Vec<IpNet> = Vec::new();
        for cidr in self.primary().into_iter().chain(self.interfaces.values()).flat_map(of) {
            if !all.contains(cidr) {
                all.push(*cidr);
            }
        }
        all
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("no answer within {} s", PROBE.as_secs())]
    Silent,
    #[error("answers came too slowly")]
    Slow,
    #[error("{0}")]
    Runtime(#[from] std::io::Error),
    #[error("{0}")]
    Endpoint(String),
    #[error("{path}: {why}")]
    Answer { path: String, why: String },
}

const DMI: &str = "/sys/class/dmi/id";

/// Whether there is somebody to ask: on EC2, unless it is turned off.
pub(crate) fn is_expected() -> bool {
    let is_set = |name| std::env::var(name).is_ok_and(|value: String| !value.is_empty());
    let disabled = std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    !disabled && (is_set("AWS_EC2_METADATA_SERVICE_ENDPOINT") || on_ec2(Path::new(DMI)))
}

/// As the firmware says it, where it does.
pub(crate) fn instance_id() -> Option<String> {
    let tag = std::fs::read_to_string(Path::new(DMI).join("board_asset_tag")).ok()?;
    Some(tag.trim().to_owned()).filter(|tag| tag.starts_with("i-"))
}

/// What the firmware says, which any user may read.
fn on_ec2(dmi: &Path) -> bool {
    let says = |file: &str| std::fs::read_to_string(dmi.join(file)).unwrap_or_default();
    // Nitro; then Xen.
    says("sys_vendor").trim() == "Amazon EC2"
        || says("board_asset_tag").starts_with("i-")
        || says("bios_version").contains("amazon")
}

/// Takes [`PROBE`] and [`REST`] at most. `endpoint`: instead of the one that the environment or AWS's configuration name.
pub(crate) fn fetch(endpoint: Option<&str>) -> Result<Imds, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let service = Service::new(endpoint)?;
    runtime.block_on(async {
        let document = timeout(PROBE, service.document()).await.map_err(|_| ProbeError::Silent)??;
        timeout(REST, service.rest(document)).await.map_err(|_| ProbeError::Slow)?
    })
}

/// The instance identity document, as far as we read it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    account_id: String,
    region: String,
    instance_id: String,
}

/// In one line; the client's own text says little.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|cause| cause.to_string().replace('\n', " ")).collect::<Vec<_>>().join(": ")
}

struct Service(Client);

impl Service {
    fn new(endpoint: Option<&str>) -> Result<Self, ProbeError> {
        // Plain HTTP to a link-local address: no TLS, no proxy.
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = ProviderConfig::without_region().with_http_client(http);
        // Longer than both of ours, which hold for all that one answer takes.
        let mut client = Client::builder().configure(&config).connect_timeout(REST).read_timeout(REST);
        if let Some(endpoint) = endpoint {
            client = client.endpoint(endpoint).map_err(|error| ProbeError::Endpoint(error.to_string()))?;
        }
        Ok(Self(client.build()))
    }

    /// None: the service has no such thing.
    async fn get(&self, path: &str) -> Result<Option<String>, ProbeError> {
        match self.0.get(path).await {
            Ok(text) => Ok(Some(text.as_ref().trim().to_owned())),
            Err(ImdsError::ErrorResponse(error)) if error.response().status().as_u16() == 404 => Ok(None),
            Err(error) => Err(ProbeError::Answer { path: path.to_owned(), why: with_causes(&error) }),
        }
    }

    async fn need(&self, path: &str) -> Result<String, ProbeError> {
        self.get(path).await?.ok_or_else(|| ProbeError::Answer { path: path.to_owned(), why: "not there".to_owned() })
    }

    async fn document(&self) -> Result<Document, ProbeError> {
        let path = "/latest/dynamic/instance-identity/document";
        document(path, &self.need(path).await?)
    }

    async fn rest(&self, document: Document) -> Result<Imds, ProbeError> {
        let Document { account_id, region, instance_id } = document;
        let mut imds = Imds { account_id, region, instance_id, ..Imds::default() };
        imds.az_id = self.get("/latest/meta-data/placement/availability-zone-id").await?;
        imds.primary = self.get("/latest/meta-data/mac").await?.as_deref().and_then(mac::parse);
        let macs = self.get("/latest/meta-data/network/interfaces/macs/").await?.unwrap_or_default();
        for entry in macs.split_whitespace() {
            let entry = entry.trim_end_matches('/');
            if let Some(mac) = mac::parse(entry) {
                imds.interfaces.insert(mac, self.interface(entry).await?);
            }
        }
        Ok(imds)
    }

    async fn interface(&self, mac: &str) -> Result<Interface, ProbeError> {
        let at = |leaf: &str| format!("/latest/meta-data/network/interfaces/macs/{mac}/{leaf}");
        let mut vpc_cidrs = self.networks(&at("vpc-ipv4-cidr-blocks")).await?;
        vpc_cidrs.extend(self.networks(&at("vpc-ipv6-cidr-blocks")).await?);
        let mut subnet_cidrs = self.networks(&at("subnet-ipv4-cidr-block")).await?;
        subnet_cidrs.extend(self.networks(&at("subnet-ipv6-cidr-blocks")).await?);
        Ok(Interface {
            interface_id: self.need(&at("interface-id")).await?,
            vpc_id: self.need(&at("vpc-id")).await?,
            subnet_id: self.need(&at("subnet-id")).await?,
            vpc_cidrs,
            subnet_cidrs,
        })
    }

    /// Without any the path is not there.
    async fn networks(&self, path: &str) -> Result<Vec<IpNet>, ProbeError> {
        networks(path, &self.get(path).await?.unwrap_or_default())
    }
}

fn document(path: &str, text: &str) -> Result<Document, ProbeError> {
    serde_json::from_str(text).map_err(|error| ProbeError::Answer { path: path.to_owned(), why: error.to_string() })
}

/// One a line.
fn networks(path: &str, text: &str) -> Result<Vec<IpNet>, ProbeError> {
    let parse = |line: &str| {
        line.parse().map_err(|_| ProbeError::Answer { path: path.to_owned(), why: format!("{line:?} is no network") })
    };
    text.split_whitespace().map(parse).collect()
}

/// A fuzzer's way in: see [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(text: &str) {
    let said = [document("", text).err(), networks("", text).err()];
    assert!(said.iter().flatten().all(|error| !error.to_string().contains(['\n', '\r'])), "{said:?}");
    if let Some(mac) = mac::parse(text) {
        assert_eq!(String::from(mac), text.to_ascii_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};

    const DOCUMENT: &str = r#"{"accountId": "123456789012", "region": "eu-west-1", "instanceId": "i-0123456789abcdef0",
        "availabilityZone": "eu-west-1b", "architecture": "x86_64"}"#;
    const MACS: &str = "/latest/meta-data/network/interfaces/macs/";
    const FIRST: &str = "02:00:00:00:00:02";
    const SECOND: &str = "02:00:00:00:00:01";

    /// What an instance with two interfaces is told; the second has no IPv6.
    fn answer(path: &str) -> Option<String> {
        let of_mac = |leaf: &str| match leaf {
            "vpc-id" => Some("vpc-12345678"),
            "vpc-ipv4-cidr-blocks" => Some("10.0.0.0/16\n10.1.0.0/16"),
            _ => None,
        };
        let text = match path {
            "/latest/dynamic/instance-identity/document" => DOCUMENT,
            "/latest/meta-data/placement/availability-zone-id" => "euw1-az2",
            "/latest/meta-data/mac" => FIRST,
            MACS => "02:00:00:00:00:01/\n02:00:00:00:00:02/",
            _ => match path.strip_prefix(MACS)?.split_once('/')? {
                (FIRST, "interface-id") => "eni-00000002",
                (FIRST, "subnet-id") => "subnet-00000002",
                (FIRST, "subnet-ipv4-cidr-block") => "10.0.2.0/24",
                (FIRST, "vpc-ipv6-cidr-blocks") => "2001:db8::/56",
                (FIRST, "subnet-ipv6-cidr-blocks") => "2001:db8:0:2::/64",
                (SECOND, "interface-id") => "eni-00000001",
                (SECOND, "subnet-id") => "subnet-00000001",
                (SECOND, "subnet-ipv4-cidr-block") => "10.1.1.0/24",
                (FIRST | SECOND, leaf) => of_mac(leaf)?,
                _ => return None,
            },
        };
        Some(text.to_owned())
    }

    /// As IMDSv2: a token for a PUT with its life, and nothing without a token.
    fn reply(head: &[String], answer: fn(&str) -> Option<String>) -> (u16, String) {
        let header =
            |name: &str| head.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned));
        let mut words = head[0].split(' ');
        match (words.next().unwrap(), words.next().unwrap()) {
            ("PUT", "/latest/api/token") if header("x-aws-ec2-metadata-token-ttl-seconds: ").is_some() => {
                (200, "secret".to_owned())
            }
            ("GET", _) if header("x-aws-ec2-metadata-token: ").as_deref() != Some("secret") => (401, String::new()),
            ("GET", path) => answer(path).map_or((404, String::new()), |text| (200, text)),
            _ => (400, String::new()),
        }
    }

    fn serve(stream: TcpStream, answer: fn(&str) -> Option<String>) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        loop {
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            if head.is_empty() {
                return;
            }
            let (status, text) = reply(&head, answer);
            // What asks for a token wants to be told how long it lives.
            let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600";
            let response = format!("HTTP/1.1 {status} -\r\n{ttl}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            if (&stream).write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Ends with the process.
    fn stand_in(answer: fn(&str) -> Option<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, answer));
            }
        });
        format!("http://{address}")
    }

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn all_that_it_says() {
        let imds = fetch(Some(&stand_in(answer))).unwrap();
        assert_eq!((imds.account_id.as_str(), imds.region.as_str()), ("123456789012", "eu-west-1"));
        assert_eq!((imds.az_id.as_deref(), imds.instance_id.as_str()), (Some("euw1-az2"), "i-0123456789abcdef0"));
        assert_eq!(imds.interfaces.len(), 2);
        let first = Interface {
            interface_id: "eni-00000002".to_owned(),
            vpc_id: "vpc-12345678".to_owned(),
            subnet_id: "subnet-00000002".to_owned(),
            vpc_cidrs: networks(&["10.0.0.0/16", "10.1.0.0/16", "2001:db8::/56"]),
            subnet_cidrs: networks(&["10.0.2.0/24", "2001:db8:0:2::/64"]),
        };
        assert_eq!(imds.primary(), Some(&first));
        assert_eq!(imds.interfaces[&Mac([2, 0, 0, 0, 0, 1])].interface_id, "eni-00000001");
        assert_eq!(imds.vpc_cidrs(), networks(&["10.0.0.0/16", "10.1.0.0/16", "2001:db8::/56"]));
        assert_eq!(imds.subnet_cidrs(), networks(&["10.0.2.0/24", "2001:db8:0:2::/64", "10.1.1.0/24"]));
    }

    #[test]
    fn refusals_and_rubbish_are_errors() {
        let failing = |answer| fetch(Some(&stand_in(answer))).unwrap_err().to_string();
        let error = failing(|_| None);
        assert_eq!(error, "/latest/dynamic/instance-identity/document: not there");
        let error = failing(|_| Some("<html>".to_owned()));
        assert!(error.starts_with("/latest/dynamic/instance-identity/document: expected value"), "{error}");
        let error = failing(|path| Some(answer(path)?.replace("10.0.2.0/24", "10.0.2.0")));
        assert!(error.ends_with("subnet-ipv4-cidr-block: \"10.0.2.0\" is no network"), "{error}");
    }

    #[test]
    fn what_never_answers_is_given_up() {
        // Connections are taken by the kernel, and nobody reads.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        assert!(matches!(fetch(Some(&endpoint)), Err(ProbeError::Silent)));
    }

    #[test]
    fn ec2_is_known_by_its_firmware() {
        for (file, text, expected) in [
            ("sys_vendor", "Amazon EC2\n", true),
            ("board_asset_tag", "i-0123456789abcdef0\n", true),
            ("bios_version", "4.11.amazon\n", true),
            ("sys_vendor", "QEMU\n", false),
            ("board_asset_tag", "", false),
        ] {
            let dmi = tempfile::tempdir().unwrap();
            std::fs::write(dmi.path().join(file), text).unwrap();
            assert_eq!(on_ec2(dmi.path()), expected, "{file} {text}");
        }
        assert!(!on_ec2(Path::new("/nonexistent")));
    }
}
