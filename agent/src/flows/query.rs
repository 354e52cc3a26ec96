//! What may be asked of the flows: `sort`, `limit`, `interface`, `address`, `cidr`, `port`, `protocol`, `action`,
//! `direction`. Addresses and CIDRs may stand there more than once, and all must hold, at either end of a flow.
//! Pure. Must not know how a question comes.
//! Always: what a query is written as is read as the same one.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::expression::net;
use super::filter::{Filter, Term};
use super::words::{action, direction, protocol};

/// Of one answer: a few megabytes.
pub(crate) const LIMIT_MAX: usize = 10_000;
const LIMIT: usize = 100;
const BYTES_MAX: usize = 2048;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sort {
    #[default]
    Bytes,
    Packets,
    /// Refused packets, and then those that were let through.
    Rejects,
}

impl Sort {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Packets => "packets",
            Self::Rejects => "rejects",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) filter: Filter,
    pub(crate) sort: Sort,
    pub(crate) limit: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self { filter: Filter::default(), sort: Sort::default(), limit: LIMIT }
    }
}

impl Query {
    /// Of an URL.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("a query has at most {BYTES_MAX} bytes"));
        }
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let term = match name.as_ref() {
                "sort" => {
                    let known = [Sort::Bytes, Sort::Packets, Sort::Rejects].into_iter().find(|it| it.name() == value);
                    query.sort = known.ok_or_else(|| format!("{value:?} is not bytes, packets or rejects"))?;
                    continue;
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    query.limit = limit.ok_or_else(|| format!("{value:?} is not a limit, 1 to {LIMIT_MAX}"))?;
                    continue;
                }
                "interface" => Term::Interface,
                "address" | "cidr" => Term::Net,
                "port" => Term::Port,
                "protocol" => Term::Protocol,
                "action" => Term::Action,
                "direction" => Term::Direction,
                other => {
                    return Err(format!(
                        "there is no {other:?}; there are sort, limit, interface, address, cidr, port, protocol, action, direction"
                    ));
                }
            };
            query.filter.set(term, &value)?;
        }
        Ok(query)
    }

    /// Behind the question mark.
    pub(crate) fn url(&self) -> String {
        let Filter { interface, nets, port, protocol: number, action: verdict, direction: way } = &self.filter;
        let mut url = form_urlencoded::Serializer::new(String::new());
        url.append_pair("sort", self.sort.name()).append_pair("limit", &self.limit.to_string());
        let mut append = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                url.append_pair(name, &value);
            }
        };
        append("interface", interface.clone());
        append("port", port.map(|port| port.to_string()));
        append("protocol", number.map(|number| protocol(number).into_owned()));
        append("action", verdict.map(|verdict| action(verdict).to_ascii_lowercase()));
        append("direction", way.map(|way| direction(way).to_owned()));
        nets.iter().for_each(|it| append("cidr", Some(net(it))));
        url.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_filter;
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        for (filter, sort, limit) in [
            ("", Sort::Bytes, 1),
            ("10.0.0.0/8 fd77::1 port 443 proto tcp action reject dir egress if eth0", Sort::Rejects, LIMIT_MAX),
            ("if a&b=c%+", Sort::Packets, 100),
        ] {
            let query = Query { filter: parse_filter(filter).unwrap(), sort, limit };
            assert_eq!(Query::parse(&query.url()), Ok(query.clone()), "{}", query.url());
        }
        assert_eq!(Query::parse(""), Ok(Query::default()));
        assert_eq!(Query::parse("address=10.0.0.1&cidr=10.0.0.0%2F8").unwrap().filter.nets.len(), 2);
    }

    #[test]
    fn what_is_not_is_said_in_one_line() {
        for (text, why) in [
            ("sort=name", "\"name\" is not bytes, packets or rejects"),
            ("limit=0", "\"0\" is not a limit, 1 to 10000"),
            ("limit=10001", "\"10001\" is not a limit"),
            ("limit=many", "\"many\" is not a limit"),
            ("port=-1", "\"-1\" is not a port"),
            ("port=", "\"\" is not a port"),
            ("interface=", "\"\" is not the name of an interface"),
            ("direction=up", "\"up\" is not ingress or egress"),
            ("colour=red", "there is no \"colour\"; there are sort, limit"),
            ("action=accept&action=reject", "action is there twice"),
            ("cidr=%00%0a", "\"\\0\\n\" is not an address"),
        ] {
            let error = Query::parse(text).unwrap_err();
            assert!(error.starts_with(why) && error.lines().count() == 1, "{text}: {error}");
        }
        assert!(Query::parse(&"port=1&".repeat(1000)).unwrap_err().starts_with("a query has at most"));
    }
}
