//! Which version may follow which.

/// major, minor, patch of a version's text; a pre-release counts as its version. Text that is none comes first.
pub fn order(text: &str) -> (u64, u64, u64) {
    parse(text).unwrap_or_default()
}

fn parse(text: &str) -> Option<(u64, u64, u64)> {
    let text = text.trim_start_matches('v');
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?))
}

/// Whether two texts name the same release.
pub fn is_same(a: &str, b: &str) -> bool {
    a.trim_start_matches('v') == b.trim_start_matches('v')
}

/// Why `wanted` cannot follow `running`, or nothing if it can. `finalized` is the version whose formats are switched on.
pub fn refused(running: &str, wanted: &str, finalized: Option<&str>) -> Option<String> {
    let (from, to) = (parse(running)?, parse(wanted)?);
    if let Some(last) = finalized.and_then(parse).filter(|last| (to.0, to.1) < (last.0, last.1)) {
        return Some(format!(
            "version {wanted} cannot read what {}.{} has written since its formats were switched on; write at least {0}.{1} in \
             spec.version",
            last.0, last.1
        ));
    }
    let is_next = to.0 == from.0 && to.1 <= from.1 + 1 || to.0 == from.0 + 1 && to.1 == 0;
    if to > from && !is_next {
        return Some(format!(
            "from {running} to {wanted} skips a minor version; write {}.{} in spec.version first",
            from.0,
            from.1 + 1
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    //! Two versions in, yes or no out.

    use super::*;

    #[test]
    fn one_minor_up_and_back_until_it_is_final() {
        for (running, wanted, finalized, is_allowed) in [
            ("0.4.1", "0.4.1", None, true),
            ("0.4.1", "0.5.0", None, true),
            ("0.4.1", "0.5.0-rc.1", None, true),
            ("0.4.1", "0.6.0", None, false),
            ("0.4.1", "1.0.0", None, true),
            ("0.4.1", "1.1.0", None, false),
            ("0.5.0", "0.4.1", Some("0.4.1"), true),
            ("0.5.0", "0.4.1", Some("0.5.0"), false),
            ("0.5.3", "0.5.0", Some("0.5.3"), true),
            ("v0.4.1", "0.5.0", Some("v0.4.1"), true),
            // What is no version is not judged: a test build, an image by digest.
            ("dev", "0.4.1", None, true),
        ] {
            let refused = refused(running, wanted, finalized);
            assert_eq!(refused.is_none(), is_allowed, "{running} to {wanted}: {refused:?}");
        }
        assert!(order("0.10.0") > order("0.9.9"));
    }
}
