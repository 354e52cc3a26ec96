//! A capture file, pcap or pcapng -> its packets, each with time, interface and what is said of its direction.
//! Must not know what is made of a packet.
//! Always: memory is bounded by the longest block, and by a bound on that; every packet before the damage is handed on.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::io::{Cursor, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::interface::Cause;
use agent_ebpf_parse::parse::Network;
use pcap_parser::traits::{PcapNGPacketBlock as _, PcapReaderIterator};
use pcap_parser::{
    Block, EnhancedPacketBlock, InterfaceDescriptionBlock, OptionCode, PcapBlockOwned, PcapError, PcapNGOption,
};

use super::Unsaid;
use super::cut::Cut;
use super::link::{self, Found, Link};
use crate::capture::flow::Direction;

/// A reader's buffer, and what it may grow to: pcapng keeps names and keys of a whole capture in one block.
const BUFFER_BYTES: usize = 1 << 18;
const BLOCK_BYTES_MAX: usize = 1 << 26;
/// 31 December 9999: no clock shows more.
const SECONDS_MAX: i64 = 253_402_300_799;
/// pcapng's first kind of packet block.
const OBSOLETE_PACKET: u32 = 2;
/// epb_flags.
const PACKET_FLAGS: OptionCode = OptionCode(2);
const IF_IPV6_ADDRESS: OptionCode = OptionCode(5);

/// Why a capture is not read to its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("is neither pcap nor pcapng")]
    NoCapture,
    #[error("cannot be read: {0}")]
    Unread(String),
    #[error("cannot be read any further after {0} packets")]
    Unreadable(u64),
    #[error("ends in the middle of a packet, after {0} whole ones; the records are of these")]
    Short(u64),
    #[error("is damaged after {0} packets; the records are of these")]
    Damaged(u64),
    #[error("has packets of link type {0}, after {1} others; known are {known}", known = link::KNOWN)]
    UnknownLink(i32, u64),
}

/// One packet.
pub(super) struct Frame<'a> {
    /// Stands for the interface: 1 and up, as they come.
    pub(super) ifindex: u32,
    /// Unix.
    pub(super) seconds: i64,
    pub(super) direction: Option<Direction>,
    /// Of the host, where nothing says the direction.
    pub(super) addresses: &'a BTreeSet<IpAddr>,
    pub(super) packet: Cut<'a>,
    pub(super) network: Result<Network, Cause>,
    pub(super) header_len: u32,
}

/// What is known of the file so far.
pub(super) struct File<'a> {
    unsaid: &'a Unsaid,
    names: Names,
    section: Section,
    pub(super) packets: u64,
    pub(super) untimed: u64,
}

/// Interfaces by name: in another section, or another file's part, it is the same one.
#[derive(Default)]
struct Names(HashMap<String, u32>);

/// A pcapng section, or a whole pcap file.
#[derive(Default)]
struct Section {
    is_big_endian: bool,
    interfaces: Vec<Interface>,
}

struct Interface {
    name: String,
    link: i32,
    /// Fractions of a second in a time; none: all times are within the first second.
    units: Option<u64>,
    offset: i64,
    addresses: BTreeSet<IpAddr>,
}

impl Names {
    fn index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.0.get(name) {
            return *index;
        }
        let index = self.0.len() as u32 + 1;
        self.0.insert(name.to_owned(), index);
        index
    }
}

impl<'a> File<'a> {
    pub(super) fn new(unsaid: &'a Unsaid) -> Self {
        Self { unsaid, names: Names::default(), section: Section::default(), packets: 0, untimed: 0 }
    }

    pub(super) fn into_names(self) -> impl Iterator<Item = (u32, String)> {
        self.names.0.into_iter().map(|(name, index)| (index, name))
    }

    pub(super) fn read(&mut self, mut input: impl Read + Send, mut take: impl FnMut(&Frame)) -> Result<(), Broken> {
        // The reader wants the first block at once, and a pipe gives what it has.
        let mut start = Vec::new();
        let read = input.by_ref().take(BUFFER_BYTES as u64).read_to_end(&mut start);
        read.map_err(|error| Broken::Unread(error.to_string()))?;
        let input = Cursor::new(start).chain(input);
        let mut reader = pcap_parser::create_reader(BUFFER_BYTES, input).map_err(|_| Broken::NoCapture)?;
        let mut capacity = BUFFER_BYTES;
        loop {
            let is_full = match reader.next() {
                Ok((size, block)) => {
                    self.block(&block, &mut take)?;
                    reader.consume(size);
                    continue;
                }
                Err(PcapError::Eof) => return Ok(()),
                Err(PcapError::UnexpectedEof) => return Err(Broken::Short(self.packets)),
                Err(PcapError::Incomplete(_)) => !self.refill(reader.as_mut())?,
                Err(PcapError::BufferTooSmall) => true,
                Err(_) => return Err(Broken::Damaged(self.packets)),
            };
            if is_full {
                if capacity >= BLOCK_BYTES_MAX {
                    return Err(Broken::Damaged(self.packets));
                }
                capacity *= 2;
                reader.grow(capacity);
                self.refill(reader.as_mut())?;
            }
        }
    }

    /// Whether it changed anything.
    fn refill(&self, reader: &mut dyn PcapReaderIterator) -> Result<bool, Broken> {
        let before = reader.data().len();
        reader.refill().map_err(|_| Broken::Unreadable(self.packets))?;
        Ok(reader.data().len() > before || reader.reader_exhausted())
    }

    fn block(&mut self, block: &PcapBlockOwned, take: &mut impl FnMut(&Frame)) -> Result<(), Broken> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let name = self.unsaid.interface.clone();
                let (units, offset, addresses) = (Some(1), 0, BTreeSet::new());
                self.section.interfaces = vec![Interface { name, link: header.network.0, units, offset, addresses }];
                Ok(())
            }
            PcapBlockOwned::Legacy(packet) => {
                self.packet(0, (packet.ts_sec.into(), None), (packet.data, packet.origlen), take)
            }
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                self.section = Section { is_big_endian: header.big_endian(), interfaces: Vec::new() };
                Ok(())
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                let interface = self.section.interface(block, &self.unsaid.interface);
                self.section.interfaces.push(interface);
                Ok(())
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let time = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let said = (time, self.section.direction(packet));
                self.packet(packet.if_id as usize, said, (packet.packet_data(), packet.origlen), take)
            }
            PcapBlockOwned::NG(Block::SimplePacket(_)) => {
                self.untimed += 1;
                Ok(())
            }
            PcapBlockOwned::NG(Block::Unknown(block)) => {
                self.untimed += u64::from(block.block_type == OBSOLETE_PACKET);
                Ok(())
            }
            PcapBlockOwned::NG(_) => Ok(()),
        }
    }

    /// `bytes`: what is there, and how many there were.
    fn packet(
        &mut self,
        interface: usize,
        (time, said): (u64, Option<Direction>),
        bytes: (&[u8], u32),
        take: &mut impl FnMut(&Frame),
    ) -> Result<(), Broken> {
        let interface = self.section.interfaces.get(interface).ok_or(Broken::Damaged(self.packets))?;
        let link = Link::of(interface.link).ok_or(Broken::UnknownLink(interface.link & 0xffff, self.packets))?;
        let packet = Cut::new(bytes.0, bytes.1);
        let Found { network, header_len, direction, ifindex } = link.find(&packet);
        let ifindex = match ifindex {
            // As the kernel calls one whose name is not known.
            Some(index) => self.names.index(&format!("if{index}")),
            None => self.names.index(&interface.name),
        };
        let own = &self.unsaid.addresses;
        let addresses = if own.is_empty() { &interface.addresses } else { own };
        let (seconds, direction) = (interface.seconds(time), said.or(direction));
        self.packets += 1;
        take(&Frame { ifindex, seconds, direction, addresses, packet, network, header_len });
        Ok(())
    }
}

impl Section {
    fn interface(&self, block: &InterfaceDescriptionBlock, unnamed: &str) -> Interface {
        let number = self.interfaces.len();
        let said = block.if_name().and_then(Result::ok).map(|name| name.trim_end_matches('\0'));
        let name = said
            .filter(|name| !name.is_empty())
            .map_or_else(|| if number == 0 { unnamed.to_owned() } else { format!("{unnamed}{number}") }, str::to_owned);
        let of = |code| block.options.iter().find(|option| option.code == code).map(value);
        let offset = of(OptionCode::IfTsoffset).and_then(|value| value.first_chunk().copied());
        Interface {
            name,
            link: block.linktype.0,
            units: units(of(OptionCode::IfTsresol).and_then(|value| value.first().copied()).unwrap_or(6)),
            offset: offset.map_or(0, if self.is_big_endian { i64::from_be_bytes } else { i64::from_le_bytes }),
            addresses: block.options.iter().filter_map(address).collect(),
        }
    }

    fn direction(&self, packet: &EnhancedPacketBlock) -> Option<Direction> {
        let flags = *value(packet.options.iter().find(|option| option.code == PACKET_FLAGS)?).first_chunk()?;
        let flags = if self.is_big_endian { u32::from_be_bytes(flags) } else { u32::from_le_bytes(flags) };
        match flags & 3 {
            1 => Some(Direction::Ingress),
            2 => Some(Direction::Egress),
            _ => None,
        }
    }
}

impl Interface {
    fn seconds(&self, time: u64) -> i64 {
        let whole = self.units.map_or(0, |units| time / units);
        let seconds = i64::try_from(whole).unwrap_or(i64::MAX).saturating_add(self.offset);
        seconds.clamp(-SECONDS_MAX, SECONDS_MAX)
    }
}

/// Without padding.
fn value<'a>(option: &'a PcapNGOption) -> &'a [u8] {
    option.as_bytes().unwrap_or_default()
}

/// if_tsresol: a negative power of 10, or of 2 with the highest bit.
fn units(resolution: u8) -> Option<u64> {
    let power = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10u64.checked_pow(power) } else { 1u64.checked_shl(power) }
}

/// With a mask or prefix length behind it.
fn address(option: &PcapNGOption) -> Option<IpAddr> {
    match (option.code, value(option)) {
        (OptionCode::IfIpv4Addr, value) => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        (IF_IPV6_ADDRESS, value) => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}
