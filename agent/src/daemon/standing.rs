//! How it goes, in the one line that the service manager shows.
//! Must not ask the kernel anything: it is said every few seconds.
//! Always: what needs a person comes after the figures, and nothing of it when all is well.
#![forbid(unsafe_code)]

use std::fmt;

use super::Daemon;

#[derive(Default)]
struct Standing {
    interfaces: u64,
    flow_logs: u64,
    windows: u64,
    packets: u64,
    /// What is wrong.
    troubles: Vec<String>,
}

impl Daemon {
    pub(super) fn standing(&self) -> String {
        let mut standing = Standing {
            interfaces: self.capture.attached().count() as u64,
            flow_logs: self.pipeline.subscriptions.len() as u64,
            windows: self.tally.windows,
            packets: self.tally.total.seen.packets,
            troubles: Vec::new(),
        };
        let troubles = &mut standing.troubles;
        if !self.unattached.is_empty() {
            troubles.push(format!("cannot attach to {}", self.unattached.join(", ")));
        }
        troubles.extend(self.not_reloaded.as_ref().map(|why| format!("configuration not reloaded: {why}")));
        if !self.capture.is_pinned() {
            troubles.push("not pinned: a restart misses packets".to_owned());
        }
        for one in &self.pipeline.subscriptions {
            let status =
                one.delivery().map(crate::deliver::Delivery::status).filter(|status| status.state.is_failing());
            let Some(status) = status else { continue };
            let why = status.error.map_or_else(String::new, |error| format!(": {}", error.message));
            troubles.push(format!("{} {}{why}", one.log().id, status.state.name()));
        }
        standing.to_string()
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interfaces, flow_logs, windows, packets, troubles } = self;
        let many = |count: u64| if count == 1 { "" } else { "s" };
        let (i, l, p, w) = (many(*interfaces), many(*flow_logs), many(*packets), many(*windows));
        write!(f, "{interfaces} interface{i}, {flow_logs} flow log{l}; {packets} packet{p} in {windows} window{w}")?;
        troubles.iter().try_for_each(|trouble| write!(f, "; {trouble}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_then_troubles() {
        let mut standing = Standing { interfaces: 1, flow_logs: 2, windows: 3, packets: 4, troubles: Vec::new() };
        assert_eq!(standing.to_string(), "1 interface, 2 flow logs; 4 packets in 3 windows");
        standing.troubles = vec!["cannot attach to eth1".to_owned(), "fl-1 refused: AccessDenied".to_owned()];
        let text = standing.to_string();
        assert!(text.ends_with("windows; cannot attach to eth1; fl-1 refused: AccessDenied"), "{text}");
    }
}
