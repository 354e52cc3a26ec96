//! What nft lists as JSON -> counters by name. Pure.
//! Must not know whose they are.
//! Always: what is not understood is left out.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::capture::flow::Total;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    plain: BTreeMap<String, Total>,
    /// By set: of each IP length.
    by_length: BTreeMap<String, Vec<(u64, Total)>>,
}

pub(super) fn parse(listing: &str) -> Result<Counters, serde_json::Error> {
    let listing: Value = serde_json::from_str(listing)?;
    let mut counters = Counters::default();
    for object in listing["nftables"].as_array().into_iter().flatten() {
        if let Some((name, total)) = plain(&object["counter"]) {
            counters.plain.insert(name, total);
        }
        let set = &object["set"];
        if let Some(name) = set["name"].as_str() {
            let elements = set["elem"].as_array().into_iter().flatten().filter_map(element);
            counters.by_length.insert(name.to_owned(), elements.collect());
        }
    }
    Ok(counters)
}

fn total(counter: &Value) -> Option<Total> {
    Some(Total { packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? })
}

fn plain(counter: &Value) -> Option<(String, Total)> {
    Some((counter["name"].as_str()?.to_owned(), total(counter)?))
}

fn element(of: &Value) -> Option<(u64, Total)> {
    let element = &of["elem"];
    Some((element["val"].as_u64()?, total(&element["counter"])?))
}

impl Counters {
    /// A counter without link-layer headers, and without the padding of packets that its sets of short ones found: those of
    /// IPv4 by total length, those of IPv6 by payload length.
    pub(super) fn behind(&self, name: &str, link: u64) -> Option<Total> {
        let total = self.plain.get(name)?;
        let mut bytes = total.bytes.saturating_sub(total.packets * link);
        for (set, header) in [("4", 0), ("6", 40)] {
            for (length, short) in self.by_length.get(&format!("{name}_{set}")).into_iter().flatten() {
                bytes = bytes.saturating_sub(short.bytes.saturating_sub(short.packets * (link + length + header)));
            }
        }
        Some(Total { packets: total.packets, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints it.
    const LISTING: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "netdev", "name": "t",
        "handle": 1, "flags": "e2"}}, {"counter": {"family": "netdev", "name": "e2", "table": "t", "handle": 2,
        "packets": 4, "bytes": 308}}, {"set": {"family": "netdev", "name": "e2_4", "table": "t", "type": "integer",
        "handle": 3, "size": 64, "elem": [{"elem": {"val": 38, "counter": {"packets": 3, "bytes": 180}}}],
        "stmt": [{"counter": null}]}}, {"set": {"family": "netdev", "name": "e2_6", "table": "t", "type": "integer",
        "handle": 4, "size": 64}}, {"chain": {"family": "netdev", "table": "t", "name": "e2", "hook": "egress"}}]}"#;

    #[test]
    fn headers_and_padding_are_taken_off() {
        let counters = parse(LISTING).unwrap();
        // 308 - 4 x 14, and three frames of 60 bytes that have 8 bytes of padding each.
        assert_eq!(counters.behind("e2", 14), Some(Total { packets: 4, bytes: 228 }));
        assert_eq!(counters.behind("i2", 14), None);
    }

    #[test]
    fn something_else_has_no_counters() {
        assert_eq!(parse("{}").unwrap(), Counters::default());
        assert_eq!(parse(r#"{"nftables": [{"counter": {"name": "x"}}, 3]}"#).unwrap(), Counters::default());
        assert!(parse("nft>").is_err());
    }
}
