//! Sizes and lengths of time as people write them: `64MiB`, `30MB`, `2m`, `14d`.
//!
//! Owns [`ByteSize`] and [`Period`], the only two quantities that settings use. Always holds: what is printed parses
//! back to the same value, so a settings file that was read and written again means the same.
//! Not here: bare numbers. A quantity without a unit is refused, because `timeout: 30` has been read as seconds,
//! milliseconds and nanoseconds by three different programs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written with a unit (`512B`, `64KiB`, `30MB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A length of time, written with units (`500ms`, `2m`, `1h30m`, `14d`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

/// Why a quantity was refused; the text is meant for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No digits where digits were needed.
    #[error("{0:?} is not a quantity: expected digits and a unit, as in {1}")]
    Shape(String, &'static str),
    /// Digits with nothing behind them.
    #[error("{0:?} has no unit: write {1}")]
    NoUnit(String, &'static str),
    /// A unit we do not know.
    #[error("{0:?} has an unknown unit {1:?}: use one of {2}")]
    Unit(String, String, &'static str),
    /// More than fits in 64 bits.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

const BYTE_EXAMPLE: &str = "\"64MiB\", \"30MB\" or \"512B\"";
const BYTE_UNITS: &str = "B, KiB, MiB, GiB, TiB, KB, MB, GB, TB";
/// Binary units first: printing picks the first that divides the value.
const BYTES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const PERIOD_EXAMPLE: &str = "\"30s\", \"2m\" or \"14d\"";
const PERIOD_UNITS: &str = "ns, us, ms, s, m, h, d, w";
/// Nanoseconds per unit, longest first: printing takes each as often as it fits. A day is always 24 hours.
const PERIODS: [(&str, u64); 8] = [
    ("w", 604_800_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// Decimal megabytes, as Tempo counts its limits.
    pub const fn mb(n: u64) -> Self {
        Self(n * 1_000_000)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }
    /// For comparing with lengths in memory; saturates where `usize` is narrower.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Period {
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
    pub const fn minutes(n: u64) -> Self {
        Self(Duration::from_secs(n * 60))
    }
    pub const fn hours(n: u64) -> Self {
        Self(Duration::from_secs(n * 3600))
    }
    pub const fn days(n: u64) -> Self {
        Self(Duration::from_secs(n * 86_400))
    }
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (number, unit, rest) = leading_quantity(text, text, BYTE_EXAMPLE)?;
        let Some((_, scale)) = BYTES.iter().find(|(name, _)| *name == unit) else {
            return Err(QuantityError::Unit(text.to_owned(), unit.to_owned(), BYTE_UNITS));
        };
        if !rest.is_empty() {
            return Err(QuantityError::Shape(text.to_owned(), BYTE_EXAMPLE));
        }
        number
            .checked_mul(*scale)
            .map(Self)
            .ok_or_else(|| QuantityError::TooLarge(text.to_owned()))
    }
}

impl FromStr for Period {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let mut nanos: u64 = 0;
        let mut rest = text;
        loop {
            let (number, unit, after) = leading_quantity(rest, text, PERIOD_EXAMPLE)?;
            let Some((_, scale)) = PERIODS.iter().find(|(name, _)| *name == unit) else {
                return Err(QuantityError::Unit(text.to_owned(), unit.to_owned(), PERIOD_UNITS));
            };
            nanos = number
                .checked_mul(*scale)
                .and_then(|part| nanos.checked_add(part))
                .ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
            if after.is_empty() {
                return Ok(Self(Duration::from_nanos(nanos)));
            }
            rest = after;
        }
    }
}

/// Splits `12MiB rest` into 12, `MiB` and the rest; `whole` is what error messages quote.
fn leading_quantity<'a>(
    text: &'a str,
    whole: &str,
    example: &'static str,
) -> Result<(u64, &'a str, &'a str), QuantityError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, after) = text.split_at(digits);
    if number.is_empty() {
        return Err(QuantityError::Shape(whole.to_owned(), example));
    }
    let number = number.parse().map_err(|_| QuantityError::TooLarge(whole.to_owned()))?;
    let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (unit, rest) = after.split_at(letters);
    if unit.is_empty() {
        return Err(if rest.is_empty() {
            QuantityError::NoUnit(whole.to_owned(), example)
        } else {
            QuantityError::Shape(whole.to_owned(), example)
        });
    }
    Ok((number, unit, rest))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = BYTES
            .iter()
            .find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Parsing never makes more than u64 nanoseconds (584 years); a longer `Duration` built in code prints as that.
        let mut nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 {
            return f.write_str("0s");
        }
        // Weeks are read but not written: `14d` says more than `2w`.
        for (unit, scale) in &PERIODS[1..] {
            if nanos >= *scale {
                write!(f, "{}{unit}", nanos / scale)?;
                nanos %= scale;
            }
        }
        Ok(())
    }
}

/// Reads a quantity from text and explains a bare number instead of calling it "invalid type".
struct QuantityVisitor<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = QuantityError>> Visitor<'_> for QuantityVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a quantity with a unit, as in {}", self.0)
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        Err(E::custom(QuantityError::NoUnit(number.to_string(), self.0)))
    }
    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        Err(E::invalid_value(Unexpected::Signed(number), &self))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(QuantityVisitor(BYTE_EXAMPLE, std::marker::PhantomData))
            .map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(QuantityVisitor(PERIOD_EXAMPLE, std::marker::PhantomData))
            .map_err(D::Error::custom)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
