//! Writes records as text lines: AWS's default format, or any other.
//! Must not know of windows, files or compression.
//! Always: one line per record, single spaces, `-` for what does not apply, `\n` at the end, no allocation per record.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::capture::flow::{Flow, Verdict};
use crate::format::{Format, Value};
use crate::record::{Record, Status};

pub(crate) fn append(format: &Format, record: &Record, out: &mut Vec<u8>) {
    if format.is_default() { append_default(record, out) } else { append_values(format.values(record), out) }
}

/// All fields in AWS's order: what most flow logs have, so it is worth its own code.
fn append_default(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(b"2 ");
    out.extend_from_slice(record.host.account_id.as_bytes());
    out.push(b' ');
    out.extend_from_slice(record.interface.id.as_bytes());
    in_place(out, |line| {
        let line = match record.flow {
            Some(flow @ Flow { key, packets, bytes, .. }) => {
                let (src, dst) = record.interface.ends(flow);
                line.address(src)
                    .address(dst)
                    .number(key.src_port.into())
                    .number(key.dst_port.into())
                    .number(key.protocol.into())
                    .number(*packets)
                    .number(*bytes)
            }
            None => line.text(b" - - - - - - -"),
        };
        line.seconds(record.start).seconds(record.end).action(record).status(record).text(b"\n")
    });
}

/// A line of these values; at least one.
pub(crate) fn append_values<'a>(values: impl Iterator<Item = Value<'a>>, out: &mut Vec<u8>) {
    let start = out.len();
    for value in values {
        match value {
            Value::Text(text) => append_text(text, out),
            Value::Absent => out.extend_from_slice(b" -"),
            Value::Number(number) => in_place(out, |line| line.number(number)),
            Value::Seconds(seconds) => in_place(out, |line| line.seconds(seconds)),
            Value::Address(address) => in_place(out, |line| line.address(address)),
        }
    }
    // Every field has brought a space.
    out.push(b'\n');
    out.remove(start);
}

fn append_text(text: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(text.as_bytes());
}

#[inline(always)]
fn in_place(out: &mut Vec<u8>, write: impl FnOnce(Line) -> Line) {
    let start = out.len();
    out.resize(start + ROOM, 0);
    let Some(room) = out[start..].first_chunk_mut() else { return };
    let len = write(Line { room, len: 0 }).len;
    out.truncate(start + usize::from(len));
}

/// What a `u8` reaches, and the longest fixed text.
const ROOM: usize = 256 + 16;

/// What follows the interface-id, in place. At most 195 bytes: two addresses of 39 characters, four numbers of 20 with
/// a sign, two ports, a protocol, action and status. So its length is a `u8`, which tells the compiler that all fits:
/// no check for any field.
struct Line<'a> {
    room: &'a mut [u8; ROOM],
    len: u8,
}

/// Fields bring their space with them. What is short is written in a fixed width, and the next field goes over what is
/// too much: that costs less than loops and branches over the number of digits. By value, to stay in registers.
impl Line<'_> {
    #[inline(always)]
    fn text<const N: usize>(self, text: &[u8; N]) -> Self {
        self.start(text, N as u8)
    }

    /// The first `len` bytes of `text`.
    #[inline(always)]
    fn start<const N: usize>(self, text: &[u8; N], len: u8) -> Self {
        const { assert!(N <= ROOM - 256) };
        let at = usize::from(self.len);
        self.room[at..at + N].copy_from_slice(text);
        Self { len: self.len + len, ..self }
    }

    #[inline(always)]
    fn action(self, record: &Record) -> Self {
        match record.flow.map(|flow| flow.key.verdict) {
            Some(Verdict::Accept) => self.text(b" ACCEPT"),
            Some(Verdict::Reject) => self.text(b" REJECT"),
            None => self.text(b" -"),
        }
    }

    #[inline(always)]
    fn status(self, record: &Record) -> Self {
        match record.status {
            Status::Ok => self.text(b" OK"),
            Status::NoData => self.text(b" NODATA"),
            Status::SkipData => self.text(b" SKIPDATA"),
        }
    }

    #[inline(always)]
    fn number(self, value: u64) -> Self {
        self.text(b" ").digits(value)
    }

    #[inline(always)]
    fn seconds(self, value: i64) -> Self {
        let line = if value < 0 { self.text(b" -") } else { self.text(b" ") };
        line.digits(value.unsigned_abs())
    }

    /// Four at a time.
    #[inline(always)]
    fn digits(self, value: u64) -> Self {
        let (high, low) = (value / 10_000, value % 10_000);
        match high {
            0 => self.leading_digits(low),
            1..10_000 => self.leading_digits(high).text(&four_digits(low)),
            _ => self.many_digits(high).text(&four_digits(low)),
        }
    }

    #[inline(never)]
    fn many_digits(self, value: u64) -> Self {
        let (high, low) = (value / 10_000, value % 10_000);
        let line = if high < 10_000 { self.leading_digits(high) } else { self.many_digits(high) };
        line.text(&four_digits(low))
    }

    /// Of a value below 10,000.
    #[inline(always)]
    fn leading_digits(self, value: u64) -> Self {
        let zeros = u8::from(value < 1000) + u8::from(value < 100) + u8::from(value < 10);
        let text = u32::from_le_bytes(four_digits(value)) >> (8 * zeros);
        self.start(&text.to_le_bytes(), 4 - zeros)
    }

    #[inline(always)]
    fn address(self, address: IpAddr) -> Self {
        let line = self.text(b" ");
        match address {
            IpAddr::V4(v4) => line.v4(v4),
            IpAddr::V6(v6) => line.v6(v6),
        }
    }

    #[inline(always)]
    fn v4(mut self, address: Ipv4Addr) -> Self {
        for octet in address.octets() {
            let (text, len) = &OCTETS[usize::from(octet)];
            self = self.start(text, *len);
        }
        // No dot after the last.
        Self { len: self.len - 1, ..self }
    }

    /// RFC 5952, lower case without brackets or zone, as in AWS's examples.
    #[inline(never)]
    fn v6(mut self, address: Ipv6Addr) -> Self {
        let segments = address.segments();
        if let [0, 0, 0, 0, 0, 0xffff, ..] = segments {
            let [.., a, b, c, d] = address.octets();
            return self.text(b"::ffff:").v4(Ipv4Addr::new(a, b, c, d));
        }
        let zeros = longest_zeros(&segments);
        let mut at = 0;
        while at < segments.len() {
            if at == zeros.start && !zeros.is_empty() {
                // The segment before has brought the first colon.
                self = self.start(b"::", if at == 0 { 2 } else { 1 });
                at = zeros.end;
            } else {
                self = self.hex(segments[at]).text(b":");
                at += 1;
            }
        }
        // No colon after the last, unless it is one of a pair.
        if zeros.end == segments.len() { self } else { Self { len: self.len - 1, ..self } }
    }

    /// Without leading zeros.
    #[inline(always)]
    fn hex(self, value: u16) -> Self {
        let [[a, b], [c, d]] = value.to_be_bytes().map(|byte| HEX[usize::from(byte)]);
        let zeros = (value | 1).leading_zeros() as u8 / 4;
        let text = u32::from_le_bytes([a, b, c, d]) >> (8 * zeros);
        self.start(&text.to_le_bytes(), 4 - zeros)
    }
}

/// The first of the longest runs of at least two zero segments; empty if there is none.
fn longest_zeros(segments: &[u16; 8]) -> Range<usize> {
    let mut longest = 0..0;
    let mut start = 0;
    for (at, &segment) in segments.iter().enumerate() {
        if segment != 0 {
            start = at + 1;
        } else if at + 1 - start > longest.len().max(1) {
            longest = start..at + 1;
        }
    }
    longest
}

/// Of a value below 10,000, with leading zeros.
#[inline(always)]
fn four_digits(value: u64) -> [u8; 4] {
    let ([a, b], [c, d]) = (PAIRS[(value / 100) as usize], PAIRS[(value % 100) as usize]);
    [a, b, c, d]
}

/// "00" to "ff".
static HEX: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut value = 0;
    while value < 256 {
        pairs[value] = [b"0123456789abcdef"[value / 16], b"0123456789abcdef"[value % 16]];
        value += 1;
    }
    pairs
};

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
    use crate::capture::flow::{Direction, FlowKey};
    use crate::format::FIELDS;
    use crate::record::{Host, Interface};

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
            reason: 0,
        });
        (fields[1], fields[2], flow, start, end, status)
    }

    fn encoded(line: &str) -> String {
        let mut out = Vec::new();
        append_parsed(&Format::default(), &parse(line), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn append_parsed(format: &Format, parsed: &Parsed, out: &mut Vec<u8>) {
        let (account_id, interface_id, flow, start, end, status) = parsed;
        let host = Host { account_id: (*account_id).to_owned(), ..Host::default() };
        let interface = Interface { id: (*interface_id).to_owned(), ..Interface::default() };
        let (flow, start, end, status) = (flow.as_ref(), *start, *end, *status);
        append(format, &Record { host: &host, interface: &interface, flow, start, end, status }, out);
    }

    fn written(write: impl FnOnce(Line) -> Line) -> String {
        let mut room = [b'x'; ROOM];
        let len = usize::from(write(Line { room: &mut room, len: 0 }).len);
        String::from_utf8(room[..len].to_vec()).unwrap()
    }

    /// Real and documented AWS records; the one with milliseconds is an AWS bug and comes back as the numbers it holds.
    #[test]
    fn samples_come_back_byte_for_byte() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/samples");
        let header = Format::default().header() + "\n";
        let mut lines = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "txt") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // Others are the format module's.
            let Some(records) = text.strip_prefix(&header) else { continue };
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
        for value in powers.flat_map(|p| [p - 1, p, p + 1]).chain([u64::MAX]).chain(0..20_000) {
            assert_eq!(written(|line| line.number(value)), format!(" {value}"));
        }
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255 - octet, octet, octet]);
            assert_eq!(written(|line| line.address(address)), format!(" {address}"));
        }
    }

    #[test]
    fn ipv6_as_the_standard_library_writes_it() {
        // Every place for zeros, with segments of every length.
        for (mask, values) in (0..=255u8).flat_map(|mask| [[0xffff, 0xfff], [0x10, 1]].map(|values| (mask, values))) {
            let segment = |at: usize| if mask >> at & 1 == 1 { 0 } else { values[at % 2] };
            let address = IpAddr::from(std::array::from_fn::<u16, 8, _>(segment));
            assert_eq!(written(|line| line.address(address)), format!(" {address}"));
        }
        for segment in 0..=u16::MAX {
            let address = IpAddr::from([segment, 0, 0, segment, 1, 0, 0, segment]);
            assert_eq!(written(|line| line.address(address)), format!(" {address}"));
        }
        for text in ["::ffff:10.0.0.1", "::10.0.0.1", "::ffff:0:1.2.3.4", "::ffff", "64:ff9b::1.2.3.4"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(written(|line| line.address(address)), format!(" {address}"));
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
        append_parsed(&Format::default(), &("0", "eni-0", Some(flow), start, end, Status::Ok), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("2 0 eni-0 {address} {address} 65535 65535 255 {0} {0} {start} {end} ACCEPT OK\n", u64::MAX)
        );
    }
    /// Every field on its own is what the default line has in its place.
    #[test]
    fn fields_in_another_order() {
        for line in [
            "2 000000000000 eni-0 2001:db8::1 10.0.0.1 80 65535 6 18446744073709551615 40 0 1795517884 REJECT OK",
            "2 000000000000 eni-0 - - - - - - - 60 119 - NODATA",
            "2 000000000000 eni-0 - - - - - - - 60 119 - SKIPDATA",
        ] {
            let parsed = parse(line);
            let written = |format: &str| {
                // Behind a line that is there already.
                let mut out = b"before\n".to_vec();
                append_parsed(&Format::parse(format).unwrap(), &parsed, &mut out);
                String::from_utf8(out).unwrap().strip_prefix("before\n").unwrap().to_owned()
            };
            let values: Vec<&str> = line.split(' ').collect();
            let names: Vec<String> = FIELDS.iter().take(14).map(|field| format!("${{{}}}", field.name)).collect();
            for (name, value) in names.iter().zip(&values) {
                assert_eq!(written(name), format!("{value}\n"));
            }
            let backwards: Vec<String> = names.into_iter().rev().collect();
            let values: Vec<&str> = values.into_iter().rev().collect();
            assert_eq!(written(&backwards.join(" ")), values.join(" ") + "\n");
        }
    }
}
