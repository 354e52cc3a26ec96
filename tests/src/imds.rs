//! The metadata service of an EC2 instance, version 2 only: without a token it answers 401.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use serde_json::{Value, json};

use crate::http::{self, Request, Response};
use crate::listener::Listener;
use crate::netns::Netns;

/// Where every instance finds it.
const ADDRESS: &str = "169.254.169.254";
const TOKEN: &str = "a-token-of-the-metadata-service";
const TTL_SECONDS_MAX: u32 = 21_600;

/// What an instance is told about itself.
#[derive(Clone, Debug)]
pub struct Instance {
    pub account_id: String,
    pub region: String,
    pub az: String,
    pub az_id: String,
    pub instance_id: String,
    pub interfaces: Vec<Interface>,
}

#[derive(Clone, Debug)]
pub struct Interface {
    pub mac: String,
    pub id: String,
    pub vpc_id: String,
    pub vpc_cidrs: Vec<String>,
    pub subnet_id: String,
    pub subnet_cidr: String,
}

impl Instance {
    fn document(&self) -> Value {
        json!({
            "accountId": self.account_id,
            "availabilityZone": self.az,
            "instanceId": self.instance_id,
            "region": self.region,
            "version": "2017-09-30",
        })
    }

    /// By path below `/latest/`.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::from([
            ("dynamic/instance-identity/document".to_owned(), self.document().to_string()),
            ("meta-data/instance-id".to_owned(), self.instance_id.clone()),
            ("meta-data/placement/availability-zone".to_owned(), self.az.clone()),
            ("meta-data/placement/availability-zone-id".to_owned(), self.az_id.clone()),
            ("meta-data/placement/region".to_owned(), self.region.clone()),
        ]);
        if let Some(first) = self.interfaces.first() {
            tree.insert("meta-data/mac".to_owned(), first.mac.clone());
        }
        for (number, interface) in self.interfaces.iter().enumerate() {
            for (name, value) in [
                ("device-number", number.to_string()),
                ("interface-id", interface.id.clone()),
                ("mac", interface.mac.clone()),
                ("owner-id", self.account_id.clone()),
                ("subnet-id", interface.subnet_id.clone()),
                ("subnet-ipv4-cidr-block", interface.subnet_cidr.clone()),
                ("vpc-id", interface.vpc_id.clone()),
                ("vpc-ipv4-cidr-block", interface.vpc_cidrs.first().cloned().unwrap_or_default()),
                ("vpc-ipv4-cidr-blocks", interface.vpc_cidrs.join("\n")),
            ] {
                tree.insert(format!("meta-data/network/interfaces/macs/{}/{name}", interface.mac), value);
            }
        }
        tree
    }
}

/// Answers at the address and the port of the real one. Gone on drop, with the address.
#[derive(Debug)]
pub struct Imds<'a> {
    ns: &'a Netns,
    _listener: Listener,
    without_token: Arc<AtomicUsize>,
}

impl<'a> Imds<'a> {
    pub fn start(ns: &'a Netns, instance: &Instance) -> Result<Self> {
        ns.ip(&format!("addr add {ADDRESS}/32 dev lo"))?;
        let without_token = Arc::<AtomicUsize>::default();
        let (tree, refused) = (instance.tree(), Arc::clone(&without_token));
        let listener = http::serve(ns, format!("{ADDRESS}:80").parse()?, move |request| {
            let response = answer(&tree, request);
            if response.status == 401 {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            response
        })?;
        Ok(Self { ns, _listener: listener, without_token })
    }

    /// Requests that came without the token, as those of version 1 do.
    pub fn without_token(&self) -> usize {
        self.without_token.load(Ordering::Relaxed)
    }
}

impl Drop for Imds<'_> {
    fn drop(&mut self) {
        let _ = self.ns.ip(&format!("addr del {ADDRESS}/32 dev lo"));
    }
}

fn answer(tree: &BTreeMap<String, String>, request: &Request) -> Response {
    let plain = |status, text: &str| Response::new(status, "text/plain", text);
    if request.path == "/latest/api/token" {
        let header = "x-aws-ec2-metadata-token-ttl-seconds";
        let ttl = request.header(header).and_then(|value| value.parse().ok());
        let is_valid = request.method == "PUT" && ttl.is_some_and(|ttl| (1..=TTL_SECONDS_MAX).contains(&ttl));
        if !is_valid {
            return plain(400, "");
        }
        let mut response = plain(200, TOKEN);
        response.headers.extend(ttl.map(|ttl| (header.to_owned(), ttl.to_string())));
        return response;
    }
    if request.header("x-aws-ec2-metadata-token") != Some(TOKEN) {
        return plain(401, "");
    }
    let path = request.path.strip_prefix("/latest/").unwrap_or_default();
    match tree.get(path) {
        Some(value) => plain(200, value),
        None => list(tree, path).map_or_else(|| plain(404, ""), |names| plain(200, &names)),
    }
}

/// The names in a folder, folders among them with a slash; None if there is no such folder.
fn list(tree: &BTreeMap<String, String>, path: &str) -> Option<String> {
    let folder = format!("{}/", path.trim_end_matches('/'));
    let mut names: Vec<String> = tree
        .keys()
        .filter_map(|key| {
            let rest = key.strip_prefix(&folder)?;
            Some(rest.split_once('/').map_or_else(|| rest.to_owned(), |(name, _)| format!("{name}/")))
        })
        .collect();
    names.dedup();
    (!names.is_empty()).then(|| names.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        let interface = |mac: &str, id: &str| Interface {
            mac: mac.to_owned(),
            id: id.to_owned(),
            vpc_id: "vpc-1".to_owned(),
            vpc_cidrs: vec!["10.0.0.0/16".to_owned(), "10.1.0.0/16".to_owned()],
            subnet_id: "subnet-1".to_owned(),
            subnet_cidr: "10.0.1.0/24".to_owned(),
        };
        Instance {
            account_id: "123456789012".to_owned(),
            region: "eu-west-1".to_owned(),
            az: "eu-west-1a".to_owned(),
            az_id: "euw1-az1".to_owned(),
            instance_id: "i-0123456789abcdef0".to_owned(),
            interfaces: vec![interface("02:00:00:77:00:01", "eni-1"), interface("02:00:00:77:00:02", "eni-2")],
        }
    }

    fn get(path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = Request::signed("GET", path, "", "");
        request.headers =
            token.map(|token| ("X-aws-ec2-metadata-token".to_owned(), token.to_owned())).into_iter().collect();
        let response = answer(&instance().tree(), &request);
        (response.status, response.text())
    }

    #[test]
    fn a_token_is_needed_and_given() {
        let put = Request::signed("PUT", "/latest/api/token", "", "");
        let ask =
            |ttl: &str| answer(&instance().tree(), &put.clone().with("X-aws-ec2-metadata-token-ttl-seconds", ttl));
        assert_eq!(answer(&instance().tree(), &put).status, 400);
        assert_eq!(ask("21601").status, 400);
        let token = ask("21600");
        assert_eq!(token.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("21600"));
        assert_eq!(get("/latest/meta-data/instance-id", None).0, 401);
        assert_eq!(get("/latest/meta-data/instance-id", Some("other")).0, 401);
        let id = (200, "i-0123456789abcdef0".to_owned());
        assert_eq!(get("/latest/meta-data/instance-id", Some(&token.text())), id);
    }

    #[test]
    fn folders_list_what_is_in_them() {
        let macs = "/latest/meta-data/network/interfaces/macs/";
        assert_eq!(get(macs, Some(TOKEN)).1, "02:00:00:77:00:01/\n02:00:00:77:00:02/");
        assert_eq!(get(&format!("{macs}02:00:00:77:00:02/interface-id"), Some(TOKEN)).1, "eni-2");
        let cidrs = get(&format!("{macs}02:00:00:77:00:01/vpc-ipv4-cidr-blocks"), Some(TOKEN)).1;
        assert_eq!(cidrs, "10.0.0.0/16\n10.1.0.0/16");
        assert_eq!(get("/latest/meta-data/iam/security-credentials/", Some(TOKEN)).0, 404);
        let document = get("/latest/dynamic/instance-identity/document", Some(TOKEN)).1;
        assert_eq!(serde_json::from_str::<Value>(&document).expect("JSON")["accountId"], "123456789012");
    }

    #[test]
    fn it_is_where_an_instance_looks() -> Result<()> {
        let ns = Netns::new()?;
        let imds = Imds::start(&ns, &instance())?;
        let request = Request::signed("GET", "/latest/meta-data/instance-id", "", "");
        let response = ns.enter(|| request.send("169.254.169.254:80".parse()?))?;
        anyhow::ensure!(response.status == 401 && imds.without_token() == 1, "{response:?}");
        request.with("X-aws-ec2-metadata-token", TOKEN).call(&ns, "169.254.169.254:80".parse()?)?;
        Ok(())
    }
}
