//! Link-layer addresses, by which EC2 knows a host's interfaces.
#![forbid(unsafe_code)]

use nix::ifaddrs::getifaddrs;

pub(crate) type Mac = [u8; 6];

/// `02:ab:cd:ef:01:23`.
pub(crate) fn parse(text: &str) -> Option<Mac> {
    let mut bytes = text.split(':');
    let mut mac = [0; 6];
    for byte in &mut mac {
        let digits = bytes.next().filter(|digits| digits.len() == 2)?;
        *byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
    }
    bytes.next().is_none().then_some(mac)
}

/// Of an interface of this network namespace, which /sys need not be of. Loopback has one of zeros only; tunnels have none.
pub(crate) fn of(name: &str) -> Option<Mac> {
    let mut here = getifaddrs().ok()?.filter(|it| it.interface_name == name);
    here.find_map(|it| it.address?.as_link_addr().filter(|link| link.halen() == 6)?.addr()).filter(|mac| *mac != [0; 6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        assert_eq!(parse("02:ab:CD:ef:01:23"), Some([2, 0xab, 0xcd, 0xef, 1, 0x23]));
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
