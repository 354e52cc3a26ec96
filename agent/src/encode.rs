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
    out.push(b' ');
    if let Some(flow) = record.flow {
        address(flow.key.src, out);
        out.push(b' ');
        address(flow.key.dst, out);
        out.push(b' ');
        number(flow.key.src_port, out);
        number(flow.key.dst_port, out);
        number(flow.key.protocol, out);
        number(flow.packets, out);
        number(flow.bytes, out);
    } else {
        out.extend_from_slice(b"- - - - - - - ");
    }
    number(record.start, out);
    number(record.end, out);
    out.extend_from_slice(match record.flow.map(|flow| flow.key.verdict) {
        Some(Verdict::Accept) => b"ACCEPT ",
        Some(Verdict::Reject) => b"REJECT ",
        None => b"- ",
    });
    out.extend_from_slice(match record.status {
        Status::Ok => b"OK\n",
        Status::NoData => b"NODATA\n",
        Status::SkipData => b"SKIPDATA\n",
    });
}

fn number(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.push(b' ');
}

fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => {
            let mut buffer = itoa::Buffer::new();
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(buffer.format(octet).as_bytes());
            }
        }
        // RFC 5952: AWS's examples are lower case without brackets or zone. Writing to a Vec cannot fail.
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

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
}
