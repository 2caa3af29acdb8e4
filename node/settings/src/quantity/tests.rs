//! Text in, value or sentence out.

use super::*;

fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(ByteSize::bytes)
        .map_err(|error| error.to_string())
}

fn nanos(text: &str) -> Result<u128, String> {
    text.parse::<Period>()
        .map(|period| period.duration().as_nanos())
        .map_err(|error| error.to_string())
}

#[test]
fn sizes_are_read() {
    for (text, bytes) in [
        ("0B", 0),
        ("1B", 1),
        ("64MiB", 64 << 20),
        ("30MB", 30_000_000),
        ("1KiB", 1024),
        ("1KB", 1000),
        ("2GiB", 2 << 30),
        ("1TB", 1_000_000_000_000),
        ("16777215TiB", 16_777_215 << 40),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn wrong_sizes_say_what_to_write() {
    for (text, message) in [
        (
            "",
            r#""" is not a quantity: expected digits and a unit, as in "64MiB", "30MB" or "512B""#,
        ),
        ("64", r#""64" has no unit: write "64MiB", "30MB" or "512B""#),
        (
            "64mb",
            r#""64mb" has an unknown unit "mb": use one of B, KiB, MiB, GiB, TiB, KB, MB, GB, TB"#,
        ),
        (
            "MiB",
            r#""MiB" is not a quantity: expected digits and a unit, as in "64MiB", "30MB" or "512B""#,
        ),
        (
            "-1B",
            r#""-1B" is not a quantity: expected digits and a unit, as in "64MiB", "30MB" or "512B""#,
        ),
        (
            "1MiB2KiB",
            r#""1MiB2KiB" is not a quantity: expected digits and a unit, as in "64MiB", "30MB" or "512B""#,
        ),
        (
            "1.5MiB",
            r#""1.5MiB" is not a quantity: expected digits and a unit, as in "64MiB", "30MB" or "512B""#,
        ),
        ("16777216TiB", r#""16777216TiB" is too large"#),
        ("99999999999999999999B", r#""99999999999999999999B" is too large"#),
    ] {
        assert_eq!(size(text), Err(message.to_owned()), "{text}");
    }
}

#[test]
fn periods_are_read() {
    for (text, expected) in [
        ("0s", 0),
        ("1ns", 1),
        ("20us", 20_000),
        ("500ms", 500_000_000),
        ("2m", 120_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("14d", 1_209_600_000_000_000),
        ("2w", 1_209_600_000_000_000),
        ("213503d", 213_503 * 86_400_000_000_000),
    ] {
        assert_eq!(nanos(text), Ok(expected), "{text}");
    }
}

#[test]
fn wrong_periods_say_what_to_write() {
    for (text, message) in [
        ("30", r#""30" has no unit: write "30s", "2m" or "14d""#),
        ("1h30", r#""1h30" has no unit: write "30s", "2m" or "14d""#),
        (
            "3y",
            r#""3y" has an unknown unit "y": use one of ns, us, ms, s, m, h, d, w"#,
        ),
        (
            "1 h",
            r#""1 h" is not a quantity: expected digits and a unit, as in "30s", "2m" or "14d""#,
        ),
        ("213504d", r#""213504d" is too large"#),
    ] {
        assert_eq!(nanos(text), Err(message.to_owned()), "{text}");
    }
}

#[test]
fn printed_quantities_read_back_as_themselves() {
    for bytes in [
        0,
        1,
        999,
        1000,
        1023,
        1024,
        5_000_000,
        30_000_000,
        64 << 20,
        100_000_000_001,
        u64::MAX,
    ] {
        assert_eq!(size(&ByteSize(bytes).to_string()), Ok(bytes));
    }
    for nanos_in in [
        0,
        1,
        999,
        1_000_000,
        90_000_000_000,
        5_400_000_000_001,
        1_209_600_000_000_000,
        u64::MAX,
    ] {
        assert_eq!(
            nanos(&Period(Duration::from_nanos(nanos_in)).to_string()),
            Ok(u128::from(nanos_in))
        );
    }
    assert_eq!(Period::days(14).to_string(), "14d");
    assert_eq!(Period::minutes(90).to_string(), "1h30m");
    assert_eq!(ByteSize::mib(64).to_string(), "64MiB");
    assert_eq!(ByteSize::mb(30).to_string(), "30MB");
}
