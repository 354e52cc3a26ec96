//! Names of the running kernel: where a field is in a struct, what number an enum gives a name (BTF,
//! Documentation/bpf/btf.rst). aya reads BTF too, but keeps members to itself.
//! Knows nothing of drops. Never trusts a length: a damaged file is an error.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// Where the kernel shows its own types.
pub(crate) const KERNEL: &str = "/sys/kernel/btf/vmlinux";
/// Where it shows those of connection tracking, if that is a module and loaded.
pub(crate) const CONNTRACK: &str = "/sys/kernel/btf/nf_conntrack";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BtfError {
    #[error("the kernel's BTF ends too early")]
    Truncated,
    #[error("the kernel's BTF has an unknown {0} {1:#x}")]
    Unknown(&'static str, u32),
    #[error("the kernel's BTF has no {0}")]
    Missing(String),
}

const MAGIC: u32 = 0xeb9f;
const HEADER_LEN: usize = 24;
/// `struct btf_type`: name, info, size or type.
const TYPE_LEN: usize = 12;
/// Anonymous structs in structs that are looked into.
const NESTING_MAX: u32 = 8;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const TYPE_TAG: u32 = 18;

/// Types by number, and structs and enums by name.
pub(crate) struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Where each type is; number 0 is void.
    types: Vec<usize>,
    names: HashMap<(u32, String), usize>,
}

/// A type's first words, taken apart.
#[derive(Clone, Copy)]
struct Header {
    name: u32,
    kind: u32,
    len: usize,
    /// Offsets of members hold the width of bit fields too.
    has_bit_fields: bool,
    size_or_type: u32,
}

impl Btf {
    pub(crate) fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let (types, strings) = sections(&data)?;
        let mut btf = Self { types: vec![0], names: HashMap::new(), strings: strings.start, data };
        btf.read(types)?;
        Ok(btf)
    }

    /// Adds the types of a module, whose numbers and strings go on where the kernel's end.
    pub(crate) fn extend(&mut self, module: &[u8]) -> Result<(), BtfError> {
        let (_, own_strings) = sections(&self.data)?;
        let (types, strings) = sections(module)?;
        // What follows the strings is ours to use: the kernel has nothing there.
        self.data.truncate(own_strings.end);
        self.data.extend(module.get(strings).ok_or(BtfError::Truncated)?);
        let start = self.data.len();
        self.data.extend(module.get(types).ok_or(BtfError::Truncated)?);
        self.read(start..self.data.len())
    }

    fn read(&mut self, types: Range<usize>) -> Result<(), BtfError> {
        let mut at = types.start;
        while at < types.end {
            let header = self.header(at)?;
            if matches!(header.kind, STRUCT | UNION | ENUM) && header.name != 0 {
                let name = self.string(header.name)?.into_owned();
                // The first of a name is the one that has members; forward declarations are another kind.
                self.names.entry((header.kind, name)).or_insert(at);
            }
            self.types.push(at);
            at += TYPE_LEN + trailing(header)?;
        }
        Ok(())
    }

    fn header(&self, at: usize) -> Result<Header, BtfError> {
        let info = word(&self.data, at + 4)?;
        Ok(Header {
            name: word(&self.data, at)?,
            kind: info >> 24 & 0x1f,
            len: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 == 1,
            size_or_type: word(&self.data, at + 8)?,
        })
    }

    fn string(&self, offset: u32) -> Result<Cow<'_, str>, BtfError> {
        let bytes = self.data.get(self.strings + offset as usize..).ok_or(BtfError::Truncated)?;
        let end = bytes.iter().position(|&byte| byte == 0).ok_or(BtfError::Truncated)?;
        Ok(String::from_utf8_lossy(&bytes[..end]))
    }

    /// Byte offset of a field, or of a field of a struct in it: `("net", ["ns", "inum"])`. Looks into anonymous
    /// structs and unions.
    pub(crate) fn offset(&self, of: &str, path: &[&str]) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(format!("{of}.{}", path.join(".")));
        let mut at = *self.names.get(&(STRUCT, of.to_owned())).ok_or_else(missing)?;
        let mut bits = 0u32;
        for name in path {
            let (offset, type_number) = self.member(at, name, 0)?.ok_or_else(missing)?;
            bits = u32::saturating_add(bits, offset);
            at = self.resolve(type_number)?;
        }
        Ok(bits / 8)
    }

    /// Bytes of a struct.
    pub(crate) fn size(&self, of: &str) -> Result<u32, BtfError> {
        let at = self.names.get(&(STRUCT, of.to_owned())).ok_or_else(|| BtfError::Missing(of.to_owned()))?;
        Ok(self.header(*at)?.size_or_type)
    }

    /// Bit offset and type of a member.
    fn member(&self, at: usize, name: &str, depth: u32) -> Result<Option<(u32, u32)>, BtfError> {
        let header = self.header(at)?;
        if !matches!(header.kind, STRUCT | UNION) || depth > NESTING_MAX {
            return Ok(None);
        }
        for member in (0..header.len).map(|i| at + TYPE_LEN + 12 * i) {
            let (member_name, type_number) = (word(&self.data, member)?, word(&self.data, member + 4)?);
            let offset = word(&self.data, member + 8)? & if header.has_bit_fields { 0xff_ffff } else { u32::MAX };
            if member_name == 0 {
                let inner = self.member(self.resolve(type_number)?, name, depth + 1)?;
                if let Some((inner_offset, type_number)) = inner {
                    return Ok(Some((offset.saturating_add(inner_offset), type_number)));
                }
            } else if self.string(member_name)? == name {
                return Ok(Some((offset, type_number)));
            }
        }
        Ok(None)
    }

    /// Where a type is, behind typedefs and qualifiers.
    fn resolve(&self, mut number: u32) -> Result<usize, BtfError> {
        for _ in 0..=NESTING_MAX {
            let at = *self.types.get(number as usize).ok_or(BtfError::Truncated)?;
            let header = self.header(at)?;
            if !matches!(header.kind, TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG) {
                return Ok(at);
            }
            number = header.size_or_type;
        }
        Err(BtfError::Unknown("chain of types at", number))
    }

    /// Names and values of an enum; none when the kernel does not have it.
    pub(crate) fn values(&self, of: &str) -> Result<Vec<(String, u32)>, BtfError> {
        let Some(&at) = self.names.get(&(ENUM, of.to_owned())) else { return Ok(Vec::new()) };
        (0..self.header(at)?.len)
            .map(|i| at + TYPE_LEN + 8 * i)
            .map(|value| Ok((self.string(word(&self.data, value)?)?.into_owned(), word(&self.data, value + 4)?)))
            .collect()
    }
}

/// Where the types and the strings are.
fn sections(data: &[u8]) -> Result<(Range<usize>, Range<usize>), BtfError> {
    let word = |at: usize| word(data, at);
    let magic = word(0)? & 0xffff;
    if magic != MAGIC {
        return Err(BtfError::Unknown("magic number", magic));
    }
    let start = (word(4)? as usize).max(HEADER_LEN);
    let section = |at: usize| -> Result<Range<usize>, BtfError> {
        let from = start + word(at)? as usize;
        Ok(from..from + word(at + 4)? as usize)
    };
    Ok((section(8)?, section(16)?))
}

/// The kernel's own byte order is ours.
fn word(data: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = data.get(at..).and_then(<[u8]>::first_chunk).ok_or(BtfError::Truncated)?;
    Ok(u32::from_ne_bytes(*bytes))
}

/// Bytes behind a type's first words (Documentation/bpf/btf.rst, section 2.2).
fn trailing(header: Header) -> Result<usize, BtfError> {
    Ok(match header.kind {
        // INT, VAR, DECL_TAG.
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG.
        2 | 7..=12 | 16 | 18 => 0,
        // ARRAY.
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64.
        4 | 5 | 15 | 19 => 12 * header.len,
        // ENUM, FUNC_PROTO.
        6 | 13 => 8 * header.len,
        kind => return Err(BtfError::Unknown("kind of type", kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct outer { int a; struct { union { inner_t b; }; }; }; typedef struct inner { int x; int y; } inner_t;
    /// enum colour { RED, BLUE = 7 };
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0inner_t\0inner\0x\0y\0colour\0RED\0BLUE\0";
        let name = |wanted: &str| {
            let all = String::from_utf8(strings.to_vec()).unwrap();
            all.find(&format!("\0{wanted}\0")).map(|at| at as u32 + 1).unwrap()
        };
        let info = |kind: u32, len: u32| kind << 24 | len;
        let types: Vec<u32> = [
            vec![name("int"), info(1, 0), 4, 32],
            vec![name("inner"), info(STRUCT, 2), 8, name("x"), 1, 0, name("y"), 1, 32],
            vec![name("inner_t"), info(TYPEDEF, 0), 2],
            vec![0, info(UNION, 1), 8, name("b"), 3, 0],
            vec![0, info(STRUCT, 1), 8, 0, 4, 64],
            vec![name("outer"), info(STRUCT, 2), 24, name("a"), 1, 0, 0, 5, 32],
            vec![name("colour"), info(ENUM, 2), 4, name("RED"), 0, name("BLUE"), 7],
        ]
        .concat();
        let types_len = types.len() as u32 * 4;
        let mut words = vec![MAGIC | 1 << 16, HEADER_LEN as u32, 0, types_len, types_len, strings.len() as u32];
        words.extend(types);
        let mut data: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        data.extend(strings);
        data
    }

    #[test]
    fn offsets_through_anonymous_members_and_typedefs() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", &["a"]), Ok(0));
        assert_eq!(btf.offset("outer", &["b"]), Ok(12));
        assert_eq!(btf.offset("outer", &["b", "y"]), Ok(16));
        assert_eq!(btf.offset("outer", &["z"]), Err(BtfError::Missing("outer.z".to_owned())));
        assert_eq!(btf.offset("none", &["a"]), Err(BtfError::Missing("none.a".to_owned())));
        assert_eq!(btf.size("outer"), Ok(24));
        assert_eq!(btf.size("none"), Err(BtfError::Missing("none".to_owned())));
    }

    #[test]
    fn types_of_a_module() {
        let mut btf = Btf::parse(sample()).unwrap();
        let (types, strings) = sections(&btf.data).unwrap();
        assert_eq!(strings.end, btf.data.len());
        // struct wide { int before; inner_t b; }; the last two names are the kernel's.
        let base = strings.len() as u32;
        let own = b"wide\0before\0";
        let name_b = strings.start + 1;
        let name_b = btf.data[name_b..].windows(3).position(|name| name == b"\0b\0").unwrap() as u32 + 2;
        let types_of_module = [base, STRUCT << 24 | 2, 12, base + 5, 1, 0, name_b, 3, 32];
        let len = types_of_module.len() as u32 * 4;
        let mut words = vec![MAGIC | 1 << 16, HEADER_LEN as u32, 0, len, len, own.len() as u32];
        words.extend(types_of_module);
        let mut module: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        module.extend(own);
        let known = btf.types.len();
        btf.extend(&module).unwrap();
        assert_eq!((btf.types.len(), types.is_empty()), (known + 1, false));
        assert_eq!(btf.offset("wide", &["b", "y"]), Ok(8));
        assert_eq!(btf.size("wide"), Ok(12));
        assert_eq!(btf.offset("outer", &["b", "y"]), Ok(16));
        assert_eq!(btf.extend(&module[..module.len() - 1]), Err(BtfError::Truncated));
    }

    #[test]
    fn values_of_an_enum() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.values("colour").unwrap(), [("RED".to_owned(), 0), ("BLUE".to_owned(), 7)]);
        assert!(btf.values("outer").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let whole = sample();
        for len in 0..whole.len() - 1 {
            let cut = Btf::parse(whole[..len].to_vec()).and_then(|btf| btf.values("colour"));
            assert!(cut.is_err(), "{len} bytes");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            if let Ok(btf) = Btf::parse(bytes) {
                let _ = (btf.values("colour"), btf.offset("outer", &["b", "y"]));
            }
        }
    }
}
