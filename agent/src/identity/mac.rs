//! Link-layer addresses, by which EC2 knows a host's interfaces.
#![forbid(unsafe_code)]

use nix::ifaddrs::getifaddrs;
use serde::{Deserialize, Serialize};

/// As text `02:ab:cd:ef:01:23`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Mac(pub(crate) [u8; 6]);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no link-layer address, such as 02:ab:cd:ef:01:23")]
pub(crate) struct NotMac(String);

pub(crate) fn parse(text: &str) -> Option<Mac> {
    let mut bytes = text.split(':');
    let mut mac = [0; 6];
    for byte in &mut mac {
        let digits = bytes.next().filter(|digits| digits.len() == 2)?;
        *byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
    }
    bytes.next().is_none().then_some(Mac(mac))
}

impl TryFrom<String> for Mac {
    type Error = NotMac;

    fn try_from(text: String) -> Result<Self, NotMac> {
        parse(&text).ok_or(NotMac(text))
    }
}

impl From<Mac> for String {
    fn from(Mac(bytes): Mac) -> Self {
        bytes.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// Of an interface of this network namespace, which /sys need not be of. Loopback has one of zeros only; tunnels have none.
pub(crate) fn of(name: &str) -> Option<Mac> {
    let mut here = getifaddrs().ok()?.filter(|it| it.interface_name == name);
    let bytes = here.find_map(|it| it.address?.as_link_addr().filter(|link| link.halen() == 6)?.addr());
    bytes.filter(|bytes| *bytes != [0; 6]).map(Mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let mac = parse("02:ab:CD:ef:01:23").unwrap();
        assert_eq!((mac, String::from(mac).as_str()), (Mac([2, 0xab, 0xcd, 0xef, 1, 0x23]), "02:ab:cd:ef:01:23"));
        for text in ["", "02:ab:cd:ef:01", "02:ab:cd:ef:01:23:45", "2:ab:cd:ef:01:23", "02:ab:cd:ef:01:+3", "02-ab"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn loopback_has_none() {
        assert_eq!(of("lo"), None);
        assert_eq!(of("no such interface"), None);
    }
}
