//! `[host]`: who this host says it is. What is not configured comes from EC2, and what EC2 does not know is made up.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;

use super::Surroundings;
use super::place::ConfigError;
use super::section::Section;
use crate::identity::imds::Imds;
use crate::identity::mac::{self, Mac};
use crate::identity::{self, Identity, IdentityError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// What made-up ids are digests of.
    pub(crate) machine_id: String,
    pub(crate) identity: Identity,
    pub(crate) vpc_id: Option<String>,
    pub(crate) subnet_id: Option<String>,
    pub(crate) instance_id: Option<String>,
    pub(crate) az_id: Option<String>,
    /// Type and id.
    pub(crate) sublocation: Option<(String, String)>,
    pub(crate) hostname: Option<String>,
    /// AWS's number of the way that outgoing packets take.
    pub(crate) traffic_path: Option<u8>,
    /// AWS's ip-ranges.json.
    pub(crate) ip_ranges: Option<PathBuf>,
    /// What tag fields may hold.
    pub(crate) labels: BTreeMap<String, String>,
    /// The same by the interface's name.
    pub(crate) interface_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// The first IPv4 one is the primary.
    pub(crate) vpc_cidrs: Vec<IpNet>,
    pub(crate) subnet_cidrs: Vec<IpNet>,
    /// By the interface's name.
    pub(crate) interface_ids: BTreeMap<String, String>,
    pub(crate) imds: Option<Imds>,
}

impl Host {
    pub(super) fn build(section: &Section, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let imds = surroundings.metadata.imds();
        let primary = imds.and_then(Imds::primary);
        Ok(Self {
            machine_id: surroundings.machine_id.clone(),
            identity: identity_of(section, imds)?,
            vpc_id: id(section, "vpc-id", "vpc-")?.or(primary.map(|it| it.vpc_id.clone())),
            subnet_id: id(section, "subnet-id", "subnet-")?.or(primary.map(|it| it.subnet_id.clone())),
            instance_id: id(section, "instance-id", "i-")?.or(imds.map(|imds| imds.instance_id.clone())),
            az_id: az_id(section)?.or(imds.and_then(|imds| imds.az_id.clone())),
            sublocation: sublocation(section)?,
            hostname: surroundings.hostname.clone(),
            traffic_path: traffic_path(section)?,
            ip_ranges: section.path("ip-ranges")?,
            labels: section.map("labels")?,
            interface_labels: section.maps("interface-labels")?,
            vpc_cidrs: networks(section, "vpc-cidrs", imds.map(Imds::vpc_cidrs))?,
            subnet_cidrs: networks(section, "subnet-cidrs", imds.map(Imds::subnet_cidrs))?,
            interface_ids: interface_ids(section)?,
            imds: imds.cloned(),
        })
    }

    /// Of an interface: the configured one, else EC2's of that address, else one made up from host and name.
    pub(crate) fn interface_id(&self, name: &str) -> String {
        let mac = self.imds.as_ref().and_then(|_| mac::of(name));
        self.interface_id_of(name, mac)
    }

    /// The same, whatever interfaces are here.
    pub(crate) fn made_up_id(&self, name: &str) -> String {
        self.interface_id_of(name, None)
    }

    /// An address that EC2 may give an id to and that we have none for.
    pub(crate) fn unknown_mac(&self, name: &str) -> Option<Mac> {
        let is_known = |mac: &Mac| self.imds.as_ref().is_some_and(|imds| imds.interfaces.contains_key(mac));
        if self.interface_ids.contains_key(name) { None } else { mac::of(name).filter(|mac| !is_known(mac)) }
    }

    pub(super) fn interface_id_of(&self, name: &str, mac: Option<Mac>) -> String {
        let of_ec2 = || Some(&self.imds.as_ref()?.interfaces.get(&mac?)?.interface_id);
        let known = self.interface_ids.get(name).or_else(of_ec2);
        known.cloned().unwrap_or_else(|| identity::interface_id(&self.machine_id, name))
    }
}

fn identity_of(section: &Section, imds: Option<&Imds>) -> Result<Identity, ConfigError> {
    let account = section.text("account-id")?.or(imds.map(|imds| imds.account_id.clone()));
    let region = section.text("region")?.or(imds.map(|imds| imds.region.clone()));
    Identity::new(account.as_deref(), region.as_deref()).map_err(|error| match error {
        IdentityError::AccountId(_) => section.error("account-id", error),
        IdentityError::Region(_) => section.error("region", error),
    })
}

/// Ids of EC2: a prefix and hex digits.
fn id(section: &Section, key: &str, prefix: &str) -> Result<Option<String>, ConfigError> {
    let Some(id) = section.text(key)? else { return Ok(None) };
    if !is_id(&id, prefix) {
        return Err(section.error(key, format_args!("{id:?} is not {prefix} and 8 or 17 hex digits")));
    }
    Ok(Some(id))
}

fn is_id(id: &str, prefix: &str) -> bool {
    let hex = id.strip_prefix(prefix).unwrap_or_default();
    matches!(hex.len(), 8 | 17) && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `use1-az1`: the same place under every account, unlike a zone's name.
fn az_id(section: &Section) -> Result<Option<String>, ConfigError> {
    let Some(id) = section.text("az-id")? else { return Ok(None) };
    let good = id.split_once("-az").is_some_and(|(place, number)| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        word(place) && digits(number)
    });
    if !good {
        return Err(section.error("az-id", format_args!("{id:?} is not the id of a zone, such as use1-az1")));
    }
    Ok(Some(id))
}

/// Both or neither.
fn sublocation(section: &Section) -> Result<Option<(String, String)>, ConfigError> {
    let kinds = ["wavelength", "outpost", "localzone"].map(|kind| (kind, kind));
    let (kind, id) = (section.choice("sublocation-type", &kinds)?, section.text("sublocation-id")?);
    if let Some(id) = id.as_ref().filter(|id| id.contains(char::is_whitespace)) {
        return Err(section.error("sublocation-id", format_args!("{id:?} must not have spaces")));
    }
    match (kind, id) {
        (Some(kind), Some(id)) => Ok(Some((kind.to_owned(), id))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(section.error("sublocation-id", "is missing beside sublocation-type")),
        (None, Some(_)) => Err(section.error("sublocation-type", "is missing beside sublocation-id")),
    }
}

fn traffic_path(section: &Section) -> Result<Option<u8>, ConfigError> {
    let path = section.within("traffic-path", 1, 8)?;
    Ok(path.and_then(|path| u8::try_from(path).ok()))
}

fn networks(section: &Section, key: &str, known: Option<Vec<IpNet>>) -> Result<Vec<IpNet>, ConfigError> {
    if !section.has(key) {
        return Ok(known.unwrap_or_default());
    }
    section.parsed(key, "a network such as 10.0.0.0/16")
}

fn interface_ids(section: &Section) -> Result<BTreeMap<String, String>, ConfigError> {
    let ids = section.map("interface-ids")?;
    if let Some((name, id)) = ids.iter().find(|(_, id)| !is_id(id, "eni-")) {
        let why = format_args!("{name} = {id:?} is not eni- and 8 or 17 hex digits");
        return Err(section.error("interface-ids", why));
    }
    Ok(ids)
}
