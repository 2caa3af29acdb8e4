//! The cluster's own certificates: what there is, and what is to be done about it.
//!
//! Owns [`CertificateState`], read off the two Secrets, and [`CertificateStep`]. Deciding is pure; making keys is in
//! `authority`.

use std::time::Duration;

use jiff::Timestamp;

/// What the two Secrets hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateState {
    pub ca_not_after: Option<Timestamp>,
    pub leaf_not_after: Option<Timestamp>,
    /// The CA is past 80 % of its time, or a person asked for a new one.
    pub is_ca_due: bool,
    /// The CA before this one is still believed.
    pub has_previous: bool,
    /// The nodes' certificate is of the present CA.
    pub is_leaf_of_current: bool,
    /// Hash of what nodes shall believe, and of what they shall show, as they say it themselves.
    pub bundle_hash: String,
    pub leaf_hash: String,
}

/// One step in changing certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateStep {
    /// A new CA; the old one is still believed and still signs.
    NewCa,
    /// A certificate of the present CA for the nodes.
    NewLeaf,
    /// The old CA is believed no more.
    ForgetPrevious,
}

/// Part of its time after which a CA is renewed.
const CA_RENEW_PER_CENT: i32 = 80;

/// Whether a CA that is good from one time to another is to be renewed.
pub fn is_ca_due(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> bool {
    let whole = not_after.duration_since(not_before);
    now.duration_since(not_before) >= whole / 100 * CA_RENEW_PER_CENT
}

/// Whether a certificate that ends then is to be renewed.
pub fn is_leaf_due(not_after: Timestamp, renew_before: Duration, now: Timestamp) -> bool {
    let left = Duration::try_from(not_after.duration_since(now)).unwrap_or_default();
    left <= renew_before
}

#[cfg(test)]
mod tests {
    //! Times in, due or not out.

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-{text}T00:00:00Z").parse().unwrap()
    }

    #[test]
    fn an_authority_is_due_after_four_fifths_of_its_time() {
        let (begin, end) = (at("01-01"), at("01-11"));
        for (now, wanted) in [
            ("01-01", false),
            ("01-08", false),
            ("01-09", true),
            ("01-11", true),
            ("02-01", true),
        ] {
            assert_eq!(is_ca_due(begin, end, at(now)), wanted, "{now}");
        }
    }

    #[test]
    fn a_certificate_is_due_so_long_before_its_end() {
        let ten_days = Duration::from_secs(10 * 24 * 3_600);
        for (now, wanted) in [
            ("01-01", false),
            ("01-20", false),
            ("01-21", true),
            ("01-31", true),
            ("02-05", true),
        ] {
            assert_eq!(is_leaf_due(at("01-31"), ten_days, at(now)), wanted, "{now}");
        }
    }
}
