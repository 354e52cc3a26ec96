//! The interfaces' own counters, which everybody may read.
//! Must not know what they are compared with.
//! Always: of this network namespace; a line that is not understood is left out.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;

use crate::capture::flow::Direction;

/// Of the process, not of the mount: `/sys/class/net` may be another namespace's.
const PATH: &str = "/proc/net/dev";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) packets: u64,
    /// Received and dropped before, or sent and dropped behind traffic control: where exactly the drivers differ.
    pub(super) dropped: u64,
}

pub(super) type Devices = BTreeMap<(String, Direction), Device>;

/// Nothing where it cannot be read.
pub(super) fn read() -> Devices {
    parse(&fs::read_to_string(PATH).unwrap_or_default())
}

fn parse(text: &str) -> Devices {
    let mut devices = Devices::new();
    for line in text.lines() {
        let Some((name, values)) = line.rsplit_once(':') else { continue };
        let values: Vec<u64> = values.split_whitespace().map_while(|value| value.parse().ok()).collect();
        // bytes packets errs drop, and four more, of what is received; then the same of what is sent.
        let [_, received, _, received_drop, _, _, _, _, _, sent, _, sent_drop, ..] = values[..] else { continue };
        let name = name.trim();
        devices.insert((name.to_owned(), Direction::Ingress), Device { packets: received, dropped: received_drop });
        devices.insert((name.to_owned(), Direction::Egress), Device { packets: sent, dropped: sent_drop });
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    5000      50    0    0    0     0          0         0     5000      50    0    0    0     0       0          0
  eth0: 9000000     101    1    2    3     4          5         6  8000000     102    7    8    9    10      11         12
broken: 1 2 three
";

    #[test]
    fn both_directions_of_each() {
        let devices = parse(TEXT);
        assert_eq!(devices.len(), 4);
        let eth0 = |direction| devices[&("eth0".to_owned(), direction)];
        assert_eq!(eth0(Direction::Ingress), Device { packets: 101, dropped: 2 });
        assert_eq!(eth0(Direction::Egress), Device { packets: 102, dropped: 8 });
    }
}
