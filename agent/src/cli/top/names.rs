//! How the two ends of a flow are shown: as they are, by the names that this host's own files have for them, or not.
//! Must not ask anybody on the network: a look at flows must not make any.
//! Always: an end without a name is shown as it is.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;

use crate::flows::{Row, protocol};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ends {
    #[default]
    Addresses,
    Names,
    /// For a screen that others see.
    Hidden,
}

impl Ends {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Addresses => Self::Names,
            Self::Names => Self::Hidden,
            Self::Hidden => Self::Addresses,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Names => "names",
            Self::Hidden => "no addresses",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Names {
    hosts: HashMap<IpAddr, String>,
    /// By port and protocol.
    services: HashMap<(u16, String), String>,
}

impl Names {
    /// Of /etc/hosts and /etc/services, as far as they are there.
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/etc/hosts"), &text("/etc/services"))
    }

    fn parse(hosts: &str, services: &str) -> Self {
        let mut names = Self::default();
        for mut words in lines(hosts) {
            let Some((address, name)) = words.next().and_then(|it| it.parse().ok()).zip(words.next()) else { continue };
            names.hosts.entry(address).or_insert_with(|| name.to_owned());
        }
        for mut words in lines(services) {
            let Some((name, place)) = words.next().zip(words.next()) else { continue };
            let Some((port, protocol)) = place.split_once('/') else { continue };
            let Ok(port) = port.parse() else { continue };
            names.services.entry((port, protocol.to_owned())).or_insert_with(|| name.to_owned());
        }
        names
    }

    /// Source and destination.
    pub(super) fn ends(&self, row: &Row, shown: Ends) -> (String, String) {
        let end = |address, port| self.end(row.protocol, address, port, shown);
        (end(row.srcaddr, row.srcport), end(row.dstaddr, row.dstport))
    }

    fn end(&self, number: u8, address: IpAddr, port: u16, shown: Ends) -> String {
        let (host, name) = match shown {
            Ends::Hidden => (Some("*"), None),
            Ends::Addresses => (None, None),
            Ends::Names => (
                self.hosts.get(&address).map(String::as_str),
                self.services.get(&(port, protocol(number).into_owned())).map(String::as_str),
            ),
        };
        let has_port = port != 0 || matches!(number, 6 | 17 | 132);
        let host = match (host, address) {
            (Some(name), _) => name.to_owned(),
            (None, IpAddr::V6(v6)) if has_port => format!("[{v6}]"),
            (None, address) => address.to_string(),
        };
        match (has_port, name) {
            (false, _) => host,
            (true, Some(name)) => format!("{host}:{name}"),
            (true, None) => format!("{host}:{port}"),
        }
    }
}

/// Words of each line, without comments.
fn lines(text: &str) -> impl Iterator<Item = std::str::SplitWhitespace<'_>> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::row;
    use super::*;
    use crate::capture::flow::Verdict;

    #[test]
    fn ends_by_name_and_without() {
        let hosts = "# c\n10.0.0.2 db db.internal # x\n10.0.0.2 other\nnonsense\n";
        let names = Names::parse(hosts, "https 443/tcp\nhttps 443/udp\ndomain 53/udp\nx\n");
        let mut flow = row(4000, Verdict::Accept, 1);
        let shown = |flow: &Row, how| {
            let (source, destination) = names.ends(flow, how);
            format!("{source} {destination}")
        };
        assert_eq!(shown(&flow, Ends::Addresses), "10.0.0.1:4000 10.0.0.2:443");
        assert_eq!(shown(&flow, Ends::Names), "10.0.0.1:4000 db:https");
        assert_eq!(shown(&flow, Ends::Hidden), "*:4000 *:443");
        (flow.srcaddr, flow.srcport) = ("fd77::1".parse().unwrap(), 0);
        assert_eq!(shown(&flow, Ends::Addresses), "[fd77::1]:0 10.0.0.2:443");
        (flow.protocol, flow.dstport) = (58, 0);
        assert_eq!(shown(&flow, Ends::Names), "fd77::1 db");
        assert_eq!(Ends::Addresses.next().next().next(), Ends::Addresses);
    }
}
