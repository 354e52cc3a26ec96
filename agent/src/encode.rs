//! Writes records as version 2 text lines, AWS's default format.
//! Must not know of windows, files or compression.
//! Always: one line per record, single spaces, `-` for what does not apply, `\n` at the end, no allocation per record.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::IpAddr;

use crate::capture::flow::Verdict;
use crate::record::{Record, Status};

/// First line of an S3 text object: AWS's field names, in the order of the records.
pub(crate) const HEADER: &str = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets \
                                 bytes start end action log-status\n";

pub(crate) fn append(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(b"2 ");
    out.extend_from_slice(record.account_id.as_bytes());
    out.push(b' ');
    out.extend_from_slice(record.interface_id.as_bytes());
    let mut line = Line::default();
    if let Some(flow) = record.flow {
        line.address(flow.key.src);
        line.address(flow.key.dst);
        line.number(flow.key.src_port.into());
        line.number(flow.key.dst_port.into());
        line.number(flow.key.protocol.into());
        line.number(flow.packets);
        line.number(flow.bytes);
    } else {
        line.text(b" - - - - - - -");
    }
    line.seconds(record.start);
    line.seconds(record.end);
    line.text(match record.flow.map(|flow| flow.key.verdict) {
        Some(Verdict::Accept) => b" ACCEPT",
        Some(Verdict::Reject) => b" REJECT",
        None => b" -",
    });
    line.text(match record.status {
        Status::Ok => b" OK\n",
        Status::NoData => b" NODATA\n",
        Status::SkipData => b" SKIPDATA\n",
    });
    out.extend_from_slice(&line.bytes[..line.len]);
}

/// Two addresses of 39 characters, four numbers of 20 with a sign, two ports, a protocol, action and status: 197.
const LINE_BYTES: usize = 224;

/// What follows the interface-id. Fields are put together here, because growing a `Vec` field by field takes twice as
/// long. Every field starts with its space.
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [b' '; LINE_BYTES], len: 0 }
    }
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text);
        self.len += text.len();
    }

    fn number(&mut self, value: u64) {
        self.bytes[self.len] = b' ';
        self.len += 1;
        self.digits(value);
    }

    fn seconds(&mut self, value: i64) {
        self.text(if value < 0 { b" -" } else { b" " });
        self.digits(value.unsigned_abs());
    }

    /// From the last digit to the first, two at a time.
    fn digits(&mut self, value: u64) {
        let count = value.checked_ilog10().unwrap_or(0) as usize + 1;
        let digits = &mut self.bytes[self.len..self.len + count];
        self.len += count;
        let (mut rest, mut at) = (value, count);
        while at >= 2 {
            digits[at - 2..at].copy_from_slice(&PAIRS[(rest % 100) as usize]);
            rest /= 100;
            at -= 2;
        }
        if at == 1 {
            digits[0] = b'0' + rest as u8;
        }
    }

    fn address(&mut self, address: IpAddr) {
        self.bytes[self.len] = b' ';
        self.len += 1;
        match address {
            IpAddr::V4(v4) => {
                for octet in v4.octets() {
                    let (text, len) = &OCTETS[usize::from(octet)];
                    self.bytes[self.len..self.len + 4].copy_from_slice(text);
                    self.len += usize::from(*len);
                }
                // No dot after the last.
                self.len -= 1;
            }
            // RFC 5952: AWS's examples are lower case without brackets or zone. It fits, so writing cannot fail.
            IpAddr::V6(v6) => {
                let mut rest = &mut self.bytes[self.len..];
                let room = rest.len();
                let _ = write!(rest, "{v6}");
                self.len += room - rest.len();
            }
        }
    }
}

/// "00" to "99".
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = [b'0' + value as u8 / 10, b'0' + value as u8 % 10];
        value += 1;
    }
    pairs
};

/// Every octet with a dot after it, and the length of both.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut value = 0;
    while value < 256 {
        let (hundreds, tens, ones) = (value / 100, value / 10 % 10, value % 10);
        let text = [b'0' + hundreds as u8, b'0' + tens as u8, b'0' + ones as u8, b'.'];
        octets[value] = match value {
            0..10 => ([text[2], b'.', 0, 0], 2),
            10..100 => ([text[1], text[2], b'.', 0], 3),
            _ => (text, 4),
        };
        value += 1;
    }
    octets
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, Flow, FlowKey};

    /// A line's account, interface, flow, start, end and status.
    type Parsed<'a> = (&'a str, &'a str, Option<Flow>, i64, i64, Status);

    fn parse(line: &str) -> Parsed<'_> {
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!((fields.len(), fields[0]), (14, "2"), "{line}");
        let (start, end) = (fields[10].parse().unwrap(), fields[11].parse().unwrap());
        let status = match fields[13] {
            "OK" => Status::Ok,
            "NODATA" => Status::NoData,
            "SKIPDATA" => Status::SkipData,
            other => panic!("{other}"),
        };
        let flow = (status == Status::Ok).then(|| Flow {
            key: FlowKey {
                ifindex: 1,
                direction: Direction::Ingress,
                verdict: if fields[12] == "ACCEPT" { Verdict::Accept } else { Verdict::Reject },
                protocol: fields[7].parse().unwrap(),
                src: fields[3].parse().unwrap(),
                dst: fields[4].parse().unwrap(),
                src_port: fields[5].parse().unwrap(),
                dst_port: fields[6].parse().unwrap(),
            },
            packets: fields[8].parse().unwrap(),
            bytes: fields[9].parse().unwrap(),
            first: start,
            last: end,
            tcp_flags: 0,
        });
        (fields[1], fields[2], flow, start, end, status)
    }

    fn encoded(line: &str) -> String {
        let (account_id, interface_id, flow, start, end, status) = parse(line);
        let mut out = Vec::new();
        append(&Record { account_id, interface_id, flow: flow.as_ref(), start, end, status }, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Real and documented AWS records; the one with milliseconds is an AWS bug and comes back as the numbers it holds.
    #[test]
    fn samples_come_back_byte_for_byte() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/samples");
        let mut lines = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "txt") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let records = text.strip_prefix(HEADER).unwrap_or_else(|| panic!("{path:?} has another header"));
            for line in records.split_inclusive('\n') {
                assert_eq!(encoded(line.trim_end_matches('\n')), line, "{path:?}");
                lines += 1;
            }
        }
        assert_eq!(lines, 40, "samples went missing");
    }

    #[test]
    fn edges_come_back() {
        for line in [
            "2 000000000000 eni-0 0.0.0.0 255.255.255.255 65535 1 255 18446744073709551615 18446744073709551615 0 0 ACCEPT OK",
            "2 000000000000 eni-0 2001:db8::1 :: 0 0 58 4 416 1 1 REJECT OK",
            "2 000000000000 eni-0 fe80::1:0:0:1 ff02::fb 5353 5353 17 1 80 1 2 ACCEPT OK",
        ] {
            assert_eq!(encoded(line), format!("{line}\n"));
        }
    }

    #[test]
    fn numbers_and_octets_as_the_standard_library_writes_them() {
        let powers = (0..20).map(|power| 10u64.pow(power));
        for value in powers.flat_map(|p| [p - 1, p, p + 1]).chain([u64::MAX]) {
            let mut line = Line::default();
            line.number(value);
            assert_eq!(line.bytes[..line.len], *format!(" {value}").as_bytes());
        }
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255 - octet, octet, octet]);
            let mut line = Line::default();
            line.address(address);
            assert_eq!(line.bytes[..line.len], *format!(" {address}").as_bytes());
        }
    }

    #[test]
    fn the_longest_line_fits() {
        let address = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
        let line = "2 0 eni-0 ::1 ::1 65535 65535 255 18446744073709551615 18446744073709551615 0 0 ACCEPT OK";
        let mut flow = parse(line).2.unwrap();
        (flow.key.src, flow.key.dst) = (address, address);
        let mut out = Vec::new();
        let (start, end) = (i64::MIN, i64::MIN);
        let (account_id, interface_id) = ("0", "eni-0");
        append(&Record { account_id, interface_id, flow: Some(&flow), start, end, status: Status::Ok }, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("2 0 eni-0 {address} {address} 65535 65535 255 {0} {0} {start} {end} ACCEPT OK\n", u64::MAX)
        );
    }
}
