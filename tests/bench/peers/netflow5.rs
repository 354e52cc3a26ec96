//! NetFlow version 5, as far as the benchmark needs it.

use anyhow::{Context, Result, ensure};
use std::net::Ipv4Addr;

const HEADER: usize = 24;
const RECORD: usize = 48;

/// Sums the packets of UDP flows to `target`. Fails if a datagram is missing: its records were exported, so the
/// exporter did not miss them.
#[derive(Debug)]
pub(crate) struct Sum {
    target: Ipv4Addr,
    records: u32,
    pub(crate) packets: u64,
}

impl Sum {
    pub(crate) fn new(target: Ipv4Addr) -> Self {
        Self { target, records: 0, packets: 0 }
    }

    pub(crate) fn add(&mut self, datagram: &[u8]) -> Result<()> {
        let (header, records) = datagram.split_at_checked(HEADER).context("NetFlow: short datagram")?;
        ensure!(u16_at(header, 0) == 5, "NetFlow: version {}", u16_at(header, 0));
        let (count, before) = (u16_at(header, 2), u32_at(header, 16));
        ensure!(before == self.records, "NetFlow: {} records came of {before} sent", self.records);
        ensure!(records.len() == usize::from(count) * RECORD, "NetFlow: {} bytes for {count} records", records.len());
        self.records += u32::from(count);
        for record in records.chunks_exact(RECORD) {
            if record[38] == 17 && record[4..8] == self.target.octets() {
                self.packets += u64::from(u32_at(record, 16));
            }
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
