//! Lengths of time and numbers of bytes as a resource spells them: `14d`, `50Gi`.
//!
//! Owns [`Period`] and [`Size`]: text that the schema has already checked, with the arithmetic beside it. Text stays as
//! it was written, so that what is read and written back is the same. One unit only ("90m", not "1h30m"): the schema's
//! rules compare lengths of time in CEL, which has no days.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time: a whole number and one of s, m, h, d, w. A day is 24 hours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Period(pub String);

/// A number of bytes: a whole number with a unit of Kubernetes (Ki, Mi, Gi, Ti, Pi, k, M, G, T, P) or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub String);

/// Text that is not a quantity. It can only come from an object that no schema has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantityError(pub String);

impl std::error::Error for QuantityError {}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a quantity: write a whole number and a unit, as in 14d or 50Gi",
            self.0
        )
    }
}

/// At most this many digits: 999,999 weeks still fit in 64 bits of nanoseconds' seconds, and in CEL's integers.
const PERIOD_PATTERN: &str = "^(0|[1-9][0-9]{0,5})(s|m|h|d|w)$";
/// Twelve digits of Pi do not fit in 64 bits: [`Size::bytes`] refuses what the pattern lets through.
const SIZE_PATTERN: &str = "^[1-9][0-9]{0,11}(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";

impl Period {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The length; an error for text that the schema would have refused.
    pub fn duration(&self) -> Result<Duration, QuantityError> {
        let wrong = || QuantityError(self.0.clone());
        let (number, unit) = split(&self.0);
        let scale = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(scale).map(Duration::from_secs).ok_or_else(wrong)
    }
}

impl Size {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The bytes; an error for text that the schema would have refused and for more than 64 bits.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        let wrong = || QuantityError(self.0.clone());
        let (number, unit) = split(&self.0);
        let scale = match unit {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "P" => 1_000_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(scale).ok_or_else(wrong)
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PERIOD_PATTERN, "maxLength": 7})
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": SIZE_PATTERN, "maxLength": 14})
    }
}

#[cfg(test)]
mod tests {
    //! Text in, numbers out.

    use super::*;

    #[test]
    fn periods_have_one_unit() {
        let seconds = |text: &str| Period::new(text).duration().map(|length| length.as_secs());
        assert_eq!(seconds("0s"), Ok(0));
        assert_eq!(seconds("90m"), Ok(5_400));
        assert_eq!(seconds("14d"), Ok(1_209_600));
        assert_eq!(seconds("999999w"), Ok(604_799_395_200));
        for wrong in ["", "d", "14", "14D", "1h30m", "99999999999999999999s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_those_of_kubernetes() {
        let bytes = |text: &str| Size::new(text).bytes();
        assert_eq!(bytes("50Gi"), Ok(50 << 30));
        assert_eq!(bytes("20M"), Ok(20_000_000));
        assert_eq!(bytes("512"), Ok(512));
        for wrong in ["", "Gi", "1.5Gi", "5GiB", "999999999999Pi"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
