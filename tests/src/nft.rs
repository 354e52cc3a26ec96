//! The independent count: nftables sets with one counter per 5-tuple.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::{Flow, Hosts, Totals, wait_for};

/// Earlier than any defragmentation, which would hide fragments.
const PRIORITY: i32 = -450;

/// A packet's length includes its Ethernet header at a device's egress hook, and nowhere else.
const LINK_HEADER: u64 = 14;

/// Counters of the packets a namespace receives; bytes are IP lengths.
#[derive(Debug)]
pub struct Ledger<'a> {
    ns: &'a Netns,
    table: String,
    /// Bytes of link-layer header in what nftables calls a packet's length.
    link_header: u64,
}

impl<'a> Ledger<'a> {
    /// Counts packets arriving on `devices`.
    pub fn received(ns: &'a Netns, devices: &[&str]) -> Result<Self> {
        Self::install(ns, "prerouting", "iifname", devices)
    }

    /// Also counts packets leaving by `devices`: for ends that send no
    /// super-packets, as they would count once.
    pub fn received_and_sent(ns: &'a Netns, devices: &[&str]) -> Result<Self> {
        let ledger = Self::received(ns, devices)?;
        ledger.chain("postrouting", "oifname", devices)?;
        Ok(ledger)
    }

    fn install(ns: &'a Netns, hook: &str, key: &str, devices: &[&str]) -> Result<Self> {
        let ledger = Self { ns, table: "inet ledger".to_owned(), link_header: 0 };
        ledger.create()?;
        ledger.chain(hook, key, devices)?;
        Ok(ledger)
    }

    /// Counts what comes in by a device, at the device: before any address translation.
    pub fn arriving(ns: &'a Netns, device: &str) -> Result<Self> {
        Self::at_device(ns, device, "ingress", 0)
    }

    /// Counts what goes out by a device, at the device: after any address translation.
    pub fn leaving(ns: &'a Netns, device: &str) -> Result<Self> {
        Self::at_device(ns, device, "egress", LINK_HEADER)
    }

    fn at_device(ns: &'a Netns, device: &str, hook: &str, link_header: u64) -> Result<Self> {
        let ledger = Self { ns, table: format!("netdev ledger_{device}_{hook}"), link_header };
        ledger.create()?;
        ledger.rules(hook, &format!("{hook} device \"{device}\""), "")?;
        Ok(ledger)
    }

    fn create(&self) -> Result<()> {
        let set = |name: &str, kind: &str| format!("set {name} {{ type {kind}; flags dynamic; size 65535; }}\n");
        self.load(&format!(
            "table {} {{\n{}{}{}{}counter oversize {{ }}\ncounter ported {{ }}\n}}\n",
            self.table,
            set("flow4", "ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service"),
            set("flow6", "ipv6_addr . ipv6_addr . inet_proto . inet_service . inet_service"),
            set("host4", "ipv4_addr . ipv4_addr . inet_proto"),
            set("host6", "ipv6_addr . ipv6_addr . inet_proto"),
        ))
    }

    fn chain(&self, hook: &str, key: &str, devices: &[&str]) -> Result<()> {
        let devices = devices.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        self.rules(hook, hook, &format!("{key} {{ {devices} }}"))
    }

    /// `on` goes before every rule.
    fn rules(&self, chain: &str, hook: &str, on: &str) -> Result<()> {
        let oversize = 1500 + self.link_header;
        // The netdev family has no `meta nfproto`.
        let (ipv4, ipv6) = ("meta protocol ip", "meta protocol ip6");
        let table = &self.table;
        self.load(&format!(
            "table {table} {{ chain {chain} {{
                type filter hook {hook} priority {PRIORITY};
                {on} meta length > {oversize} counter name oversize
                {on} {ipv4} update @host4 {{ ip saddr . ip daddr . meta l4proto counter }}
                {on} {ipv6} update @host6 {{ ip6 saddr . ip6 daddr . meta l4proto counter }}
                {on} meta l4proto {{ tcp, udp }} th sport 0-65535 counter name ported
                {on} {ipv4} meta l4proto {{ tcp, udp }} update @flow4 {{ ip saddr . ip daddr . meta l4proto . th sport . th dport counter }}
                {on} {ipv6} meta l4proto {{ tcp, udp }} update @flow6 {{ ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport counter }}
            }}
            }}\n"
        ))
    }

    fn load(&self, rules: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(rules.as_bytes())?;
        self.ns.run(&["nft", "-f", file.path().to_str().context("temporary path")?])?;
        Ok(())
    }

    /// TCP and UDP by 5-tuple. Later fragments carry no ports and are absent.
    ///
    /// A large set has been seen listed short, so a listing only counts once it
    /// adds up to the plain counter beside it.
    pub fn flows(&self) -> Result<BTreeMap<Flow, Totals>> {
        wait_for("listing of all flows", Duration::from_secs(10), || {
            let before = self.counter("ported")?;
            let flows = self.list_flows()?;
            let sum: Totals = flows.values().copied().sum();
            Ok((sum == before).then_some(flows))
        })
    }

    fn list_flows(&self) -> Result<BTreeMap<Flow, Totals>> {
        let mut flows = BTreeMap::new();
        for set in ["flow4", "flow6"] {
            for (key, totals) in self.elements(set)? {
                let [src, dst, protocol, sport, dport] = key.as_slice() else {
                    anyhow::bail!("unexpected key {key:?}");
                };
                let flow = Flow {
                    src: src.parse()?,
                    dst: dst.parse()?,
                    protocol: protocol.parse()?,
                    sport: sport.parse()?,
                    dport: dport.parse()?,
                };
                flows.insert(flow, totals);
            }
        }
        Ok(flows)
    }

    /// Every IP packet, fragments included.
    pub fn hosts(&self) -> Result<BTreeMap<Hosts, Totals>> {
        let mut hosts = BTreeMap::new();
        for set in ["host4", "host6"] {
            for (key, totals) in self.elements(set)? {
                let [src, dst, protocol] = key.as_slice() else {
                    anyhow::bail!("unexpected key {key:?}");
                };
                let key = Hosts { src: src.parse()?, dst: dst.parse()?, protocol: protocol.parse()? };
                hosts.insert(key, totals);
            }
        }
        Ok(hosts)
    }

    /// Totals from `src` to `dst` by `protocol`.
    pub fn between(&self, src: &str, dst: &str, protocol: u8) -> Result<Totals> {
        let key = Hosts { src: src.parse::<IpAddr>()?, dst: dst.parse::<IpAddr>()?, protocol };
        Ok(self.hosts()?.get(&key).copied().unwrap_or_default())
    }

    /// Waits until exactly `packets` have passed from `src` to `dst`.
    pub fn wait_packets(&self, src: &str, dst: &str, protocol: u8, packets: u64) -> Result<()> {
        wait_for(&format!("{packets} packets on the wire"), Duration::from_secs(10), || {
            Ok((self.between(src, dst, protocol)?.packets >= packets).then_some(()))
        })
    }

    /// Fails if a super-packet was seen: then the counts are not the wire's.
    pub fn expect_wire_sized(&self) -> Result<()> {
        let oversize = self.counter("oversize")?;
        ensure!(oversize == Totals::default(), "super-packets at the observer: {oversize}");
        Ok(())
    }

    fn counter(&self, name: &str) -> Result<Totals> {
        let text = self.ns.sh(&format!("nft list counter {} {name}", self.table))?;
        Ok(without_link_header(parse_counter(&text)?, self.link_header))
    }

    fn elements(&self, set: &str) -> Result<Vec<(Vec<String>, Totals)>> {
        let text = self.ns.sh(&format!("nft -nn list set {} {set}", self.table))?;
        let Some((_, elements)) = text.split_once("elements = {") else { return Ok(Vec::new()) };
        let (elements, _) = elements.split_once('}').context("nft: unterminated elements")?;
        elements
            .split(',')
            .map(|element| {
                let (key, counter) = element.split_once(" counter ").with_context(|| element.to_owned())?;
                let key = key.split(" . ").map(|field| field.trim().to_owned()).collect();
                let words: Vec<&str> = counter.split_whitespace().collect();
                let ["packets", packets, "bytes", bytes] = words.as_slice() else {
                    anyhow::bail!("unexpected counter {counter}");
                };
                let totals = Totals { packets: packets.parse()?, bytes: bytes.parse()? };
                Ok((key, without_link_header(totals, self.link_header)))
            })
            .collect()
    }
}

fn parse_counter(text: &str) -> Result<Totals> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    let mut number = || words.by_ref().nth(1).context("nft: counter");
    Ok(Totals { packets: number()?.parse()?, bytes: number()?.parse()? })
}

fn without_link_header(totals: Totals, link_header: u64) -> Totals {
    Totals { bytes: totals.bytes - totals.packets * link_header, ..totals }
}

/// A firewall with a counter beside every rule.
#[derive(Debug)]
pub struct Firewall<'a> {
    ns: &'a Netns,
    table: String,
    /// As in [`Ledger`].
    link_header: u64,
}

impl<'a> Firewall<'a> {
    /// `chain` says where, such as `type filter hook input priority 0`; each rule has a name, a match and a verdict.
    pub fn new(ns: &'a Netns, chain: &str, rules: &[(&str, &str, &str)]) -> Result<Self> {
        let family = if chain.contains(" device ") { "netdev" } else { "inet" };
        let link_header = if chain.contains(" egress device ") { LINK_HEADER } else { 0 };
        let firewall = Self { ns, table: format!("{family} firewall"), link_header };
        let counters: String = rules.iter().map(|(name, ..)| format!("counter c_{name} {{ }}\n")).collect();
        let lines: String = rules
            .iter()
            .map(|(name, matching, verdict)| format!("{matching} counter name c_{name} {verdict}\n"))
            .collect();
        let table = &firewall.table;
        let mut file = tempfile::NamedTempFile::new()?;
        write!(file, "table {table} {{\n{counters}chain refusals {{\n{chain};\n{lines}}}\n}}\n")?;
        ns.run(&["nft", "-f", file.path().to_str().context("temporary path")?])?;
        Ok(firewall)
    }

    /// What the rule has matched, in IP bytes.
    pub fn matched(&self, name: &str) -> Result<Totals> {
        let text = self.ns.sh(&format!("nft list counter {} c_{name}", self.table))?;
        Ok(without_link_header(parse_counter(&text)?, self.link_header))
    }

    /// Waits until the rule has matched so many packets.
    pub fn wait_matched(&self, name: &str, packets: u64) -> Result<Totals> {
        wait_for(&format!("{packets} packets matched by {name}"), Duration::from_secs(10), || {
            let matched = self.matched(name)?;
            Ok((matched.packets >= packets).then_some(matched))
        })
    }

    /// Removes all rules.
    pub fn lift(&self) -> Result<()> {
        self.ns.sh(&format!("nft flush chain {} refusals", self.table))?;
        Ok(())
    }
}
