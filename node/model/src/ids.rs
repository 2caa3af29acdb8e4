//! Identifiers. Each is its own type, so that a shard number cannot be passed where a log index is meant.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// The 16 bytes that name a trace. Never all zero once it has passed the door.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceId(pub [u8; 16]);

/// The 8 bytes that name a span inside its trace. All zero means "no span" where a parent is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// Parses 1 to 32 hex digits of either case, padded with zeros on the left, as every Tempo client expects.
    pub fn parse_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.is_empty() || digits.len() > 32 {
            return None;
        }
        let mut id = [0u8; 16];
        for (position, digit) in digits.iter().rev().enumerate() {
            let nibble = hex_nibble(*digit)?;
            let byte = id.get_mut(15 - position / 2)?;
            *byte |= if position % 2 == 0 { nibble } else { nibble << 4 };
        }
        Some(Self(id))
    }

    /// The id as it orders: big-endian, so that integer order equals byte order.
    pub fn to_u128(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl SpanId {
    /// Parses 1 to 16 hex digits of either case, padded with zeros on the left.
    pub fn parse_hex(text: &str) -> Option<Self> {
        if text.len() > 16 {
            return None;
        }
        let wide = TraceId::parse_hex(text)?;
        let mut id = [0u8; 8];
        id.copy_from_slice(&wide.0[8..]);
        Some(Self(id))
    }

    /// Whether this is the absent parent.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 8]
    }
}

fn hex_nibble(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// Why a tenant name was refused. The text is for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTenant {
    /// No name at all.
    #[error("no org id")]
    Empty,
    /// More than [`TenantId::LENGTH_MAX`] bytes.
    #[error("tenant ID is too long: max {} characters", TenantId::LENGTH_MAX)]
    TooLong,
    /// A byte outside the allowed set.
    #[error("tenant ID contains unsupported character {0:?}")]
    Character(char),
    /// `.` or `..`, which mean something to file systems.
    #[error("tenant ID is '.' or '..'")]
    Dots,
}

/// The name of a tenant, checked once at the door. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Longest accepted name in bytes, as in Tempo, Loki and Mimir.
    pub const LENGTH_MAX: usize = 150;
    /// The one tenant of a node that runs without multitenancy.
    pub const SINGLE: &'static str = "single-tenant";

    /// Checks and takes a name: letters, digits and `!-_.*'()`, at most 150 bytes, not `.` or `..`.
    pub fn new(name: &str) -> Result<Self, InvalidTenant> {
        if name.is_empty() {
            return Err(InvalidTenant::Empty);
        }
        if name.len() > Self::LENGTH_MAX {
            return Err(InvalidTenant::TooLong);
        }
        if let Some(bad) = name
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "!-_.*'()".contains(*c)))
        {
            return Err(InvalidTenant::Character(bad));
        }
        if name == "." || name == ".." {
            return Err(InvalidTenant::Dots);
        }
        Ok(Self(Arc::from(name)))
    }

    /// The tenant of a node without multitenancy.
    pub fn single() -> Self {
        Self(Arc::from(Self::SINGLE))
    }

    /// The name as the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one path segment of an object key: the few allowed characters that some stores treat specially are
    /// percent-encoded, so distinct tenants have distinct segments.
    pub fn path_segment(&self) -> String {
        let mut segment = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            if c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.' {
                segment.push(c);
            } else {
                segment.push_str(&format!("%{:02X}", u32::from(c)));
            }
        }
        segment
    }

    /// The hash that places a trace of this tenant: xxh3 over tenant, a zero byte, and the trace id.
    ///
    /// Part of the on-disk contract: a shard owns a range of this value.
    pub fn placement_hash(&self, trace: &TraceId) -> u64 {
        let mut key = [0u8; Self::LENGTH_MAX + 17];
        let name = self.0.as_bytes();
        let (head, rest) = key.split_at_mut(name.len());
        head.copy_from_slice(name);
        rest[1..17].copy_from_slice(&trace.0);
        XxHash3_64::oneshot(&key[..name.len() + 17])
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Serialize for TenantId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id! {
    /// One hash range of traces; `0..shard count`.
    ShardId, u32
}
number_id! {
    /// The life of one shard's Raft group with fixed voters, counted from 1.
    Generation, u64
}
number_id! {
    /// A position in one group's log, counted from 1; 0 means "before the first entry".
    LogIndex, u64
}
number_id! {
    /// One incarnation of one disk. A pod that comes back empty has a new one.
    NodeId, u64
}

impl ShardId {
    /// The shard that owns `hash` when the space is split into `shard_count` equal ranges.
    ///
    /// `shard_count` must not be zero.
    pub fn of(hash: u64, shard_count: u32) -> Self {
        let wide = u128::from(hash) * u128::from(shard_count);
        Self(u32::try_from(wide >> 64).unwrap_or(u32::MAX))
    }
}

/// Names a block for ever: a version 7 UUID, so that ids sort by the time they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockId(pub u128);

impl BlockId {
    /// Milliseconds since the Unix epoch when the id was made, from the UUID's first 48 bits.
    pub fn unix_millis(self) -> u64 {
        u64::try_from(self.0 >> 80).unwrap_or(u64::MAX)
    }

    /// A version 7 UUID from its time and 74 random bits (higher bits of `random` are ignored).
    pub fn from_parts(unix_millis: u64, random: u128) -> Self {
        let time = (u128::from(unix_millis) & 0xffff_ffff_ffff) << 80;
        let rand_a = ((random >> 62) & 0xfff) << 64;
        let rand_b = random & 0x3fff_ffff_ffff_ffff;
        Self(time | (7u128 << 76) | rand_a | (2u128 << 62) | rand_b)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(
            f,
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_parse_as_tempo_clients_write_them() {
        let full = TraceId::parse_hex("0af7651916cd43dd8448eb211c80319C").unwrap();
        assert_eq!(full.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            TraceId::parse_hex("abc").unwrap().to_string(),
            "00000000000000000000000000000abc"
        );
        assert_eq!(TraceId::parse_hex(""), None);
        assert_eq!(TraceId::parse_hex(&"a".repeat(33)), None);
        assert_eq!(TraceId::parse_hex("xyz"), None);
        assert_eq!(SpanId::parse_hex("1F").unwrap().to_string(), "000000000000001f");
        assert_eq!(SpanId::parse_hex(&"1".repeat(17)), None);
    }

    #[test]
    fn tenants_are_checked_at_the_door() {
        assert!(TenantId::new(&"a".repeat(149)).is_ok());
        assert!(TenantId::new(&"a".repeat(150)).is_ok());
        assert_eq!(TenantId::new(&"a".repeat(151)), Err(InvalidTenant::TooLong));
        assert_eq!(TenantId::new(""), Err(InvalidTenant::Empty));
        assert_eq!(TenantId::new("a/b"), Err(InvalidTenant::Character('/')));
        assert_eq!(TenantId::new("a\0"), Err(InvalidTenant::Character('\0')));
        assert_eq!(TenantId::new(".."), Err(InvalidTenant::Dots));
        assert_eq!(TenantId::new("team*(x)").unwrap().path_segment(), "team%2A%28x%29");
    }

    #[test]
    fn placement_covers_all_shards_and_stays_put() {
        let tenant = TenantId::single();
        assert_eq!(tenant.placement_hash(&TraceId([7; 16])), 9_801_249_766_788_879_070);
        let mut seen = [false; 8];
        for n in 0..200u8 {
            let shard = ShardId::of(tenant.placement_hash(&TraceId([n; 16])), 8);
            seen[shard.0 as usize] = true;
        }
        assert_eq!(seen, [true; 8]);
        assert_eq!(ShardId::of(u64::MAX, 3), ShardId(2));
    }

    #[test]
    fn block_ids_are_version_7() {
        let id = BlockId::from_parts(1_700_000_000_000, u128::MAX);
        assert_eq!(id.to_string(), "018bcfe5-6800-7fff-bfff-ffffffffffff");
        assert_eq!(id.unix_millis(), 1_700_000_000_000);
    }
}
