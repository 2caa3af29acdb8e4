//! Kubernetes quantities as numbers: CPU in thousandths, memory in bytes.
//!
//! Not here: lengths of time and sizes of our own fields (the resource types), and rounding for people.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths of the unit: 1500 for "1500m" and for "1.5". `None` for text that is no quantity and for more than 64 bits.
pub fn millis(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let digits = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Units in thousandths, so that "m" is 1. An exponent ("1e3") is legal and nobody writes it; it is refused.
    let scale: u128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    // More than nine digits behind the point say nothing that Kubernetes keeps.
    let fraction = fraction.get(..fraction.len().min(9))?;
    let parse = |digits: &str| {
        if digits.is_empty() {
            Some(0)
        } else {
            digits.parse::<u128>().ok()
        }
    };
    let whole = parse(whole)?.checked_mul(scale)?;
    let part = parse(fraction)?.checked_mul(scale)? / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from(whole.checked_add(part)?).ok()
}

/// Whole units, rounded down: bytes for memory and volumes.
pub fn units(quantity: &Quantity) -> Option<u64> {
    millis(quantity).map(|millis| millis / 1_000)
}

/// Whether two quantities mean the same ("1Gi" and "1024Mi").
pub fn is_same(a: &Quantity, b: &Quantity) -> bool {
    a == b || matches!((millis(a), millis(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    //! Text in, numbers out.

    use super::*;

    #[test]
    fn quantities_are_numbers() {
        let thousandths = |text: &str| millis(&Quantity(text.to_owned()));
        assert_eq!(thousandths("250m"), Some(250));
        assert_eq!(thousandths("2"), Some(2_000));
        assert_eq!(thousandths("1.5"), Some(1_500));
        assert_eq!(thousandths(".5"), Some(500));
        assert_eq!(thousandths("1.5Gi"), Some(1_610_612_736_000));
        assert_eq!(thousandths("1G"), Some(1_000_000_000_000));
        for wrong in ["", "m", "1e3", "1 Gi", "-1", "1GiB", "1.2.3", "99999999999999999999"] {
            assert_eq!(thousandths(wrong), None, "{wrong}");
        }
        assert!(is_same(&Quantity("1Gi".to_owned()), &Quantity("1024Mi".to_owned())));
        assert!(!is_same(&Quantity("1Gi".to_owned()), &Quantity("1G".to_owned())));
    }
}
