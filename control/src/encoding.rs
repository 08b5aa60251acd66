//! The primitives under the catalogue's published bytes: little-endian numbers, reserved zeros, socket addresses. Reading
//! takes arbitrary bytes and never panics: it refuses what is short, what is long, and what a writer would not have
//! written, so that each value has exactly one encoding.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Why bytes of the catalogue are refused. Bytes that passed their checksums and still end here were written by a newer
/// version, or by something that is not Tiderace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// They end too early.
    Short,
    /// More follows than belongs there.
    Trailing,
    /// Reserved bytes are not zero: a newer version gave them a meaning. Start that version.
    Reserved,
    /// A kind of event or cell that this version does not know. Start the version that wrote it.
    UnknownKind(u8),
    /// A format of this kind that this version does not know. Start the version that wrote it.
    UnknownFormat {
        /// The kind.
        kind: u8,
        /// Its format.
        format: u8,
    },
    /// The field of this name holds a value that it cannot have.
    BadField(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "the bytes end too early"),
            Self::Trailing => write!(f, "more bytes follow than belong there"),
            Self::Reserved => {
                write!(
                    f,
                    "reserved bytes are set: start the version that wrote them"
                )
            }
            Self::UnknownKind(kind) => write!(
                f,
                "kind {kind} is not known to this version: start the version that wrote it"
            ),
            Self::UnknownFormat { kind, format } => write!(
                f,
                "format {format} of kind {kind} is not known to this version: start the version that wrote it"
            ),
            Self::BadField(name) => write!(f, "the field `{name}` cannot have this value"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Takes values from the front of bytes.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes all that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// Takes `count` bytes that must be zero.
    pub(crate) fn reserved(&mut self, count: usize) -> Result<(), DecodeError> {
        if self.bytes(count)?.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err(DecodeError::Reserved)
        }
    }

    /// Takes an address of [`ADDRESS_BYTES`].
    pub(crate) fn address(&mut self) -> Result<SocketAddr, DecodeError> {
        let family = self.u8()?;
        self.reserved(1)?;
        let port = self.u16()?;
        let flow = self.u32()?;
        let scope = self.u32()?;
        let octets: [u8; 16] = self.array()?;
        match family {
            4 => {
                let [a, b, c, d, rest @ ..] = octets;
                if flow != 0 || scope != 0 || rest != [0; 12] {
                    return Err(DecodeError::Reserved);
                }
                Ok(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into())
            }
            6 => Ok(SocketAddrV6::new(Ipv6Addr::from(octets), port, flow, scope).into()),
            _ => Err(DecodeError::BadField("address family")),
        }
    }

    /// Nothing may be left.
    pub(crate) const fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }
}

/// An encoded address: family u8 (4 or 6), reserved u8, port u16, flow u32, scope u32, 16 octets (4 and zeros for IPv4).
pub(crate) const ADDRESS_BYTES: usize = 28;

/// Appends values to bytes.
pub(crate) trait Write {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&value.to_le_bytes());
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    fn put_address(&mut self, address: SocketAddr) {
        let (family, flow, scope) = match address {
            SocketAddr::V4(_) => (4, 0, 0),
            SocketAddr::V6(v6) => (6, v6.flowinfo(), v6.scope_id()),
        };
        self.put_u8(family);
        self.put_u8(0);
        self.put_u16(address.port());
        self.put_u32(flow);
        self.put_u32(scope);
        match address.ip() {
            IpAddr::V4(ip) => {
                self.put(&ip.octets());
                self.put(&[0; 12]);
            }
            IpAddr::V6(ip) => self.put(&ip.octets()),
        }
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_encoding() {
        for (text, golden) in [
            (
                "10.1.2.3:7070",
                [4, 0, 0x9e, 0x1b, 0, 0, 0, 0, 0, 0, 0, 0, 10, 1, 2, 3].as_slice(),
            ),
            (
                "[fe80::1%3]:1",
                [6, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0xfe, 0x80].as_slice(),
            ),
        ] {
            let address: SocketAddr = text.parse().expect("a good address");
            let mut bytes = Vec::new();
            bytes.put_address(address);
            assert_eq!(bytes.len(), ADDRESS_BYTES);
            assert_eq!(&bytes[..golden.len()], golden);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.address(), Ok(address));
            assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn an_address_of_another_family_or_with_stray_bytes_is_refused() {
        let mut bytes = Vec::new();
        bytes.put_address("10.1.2.3:7070".parse().expect("a good address"));
        for (at, expected) in [
            (0, DecodeError::BadField("address family")),
            (1, DecodeError::Reserved),
            (5, DecodeError::Reserved),
            (9, DecodeError::Reserved),
            (27, DecodeError::Reserved),
        ] {
            let mut bad = bytes.clone();
            bad[at] = 9;
            assert_eq!(Reader::new(&bad).address(), Err(expected));
        }
        assert_eq!(Reader::new(&bytes[..27]).address(), Err(DecodeError::Short));
    }
}
