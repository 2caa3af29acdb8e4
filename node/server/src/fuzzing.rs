//! One entry per reader of what clients write, for the fuzzer (`fuzz/`) and for the test that replays its corpus.
//!
//! Each takes any bytes, must not panic, and holds what was read to a property of its own. Bodies are `wire`'s.

use http::{HeaderMap, HeaderValue};
use settings::{Limits, NodeSettings};

use crate::api::params::{Params, Rules, parse_search, parse_tags, parse_trace, parse_values};
use crate::api::route::route;
use crate::refusal::Kind;
use crate::tenant::{TENANT_HEADER, Tenancy};

const NOW: u64 = 1_700_000_000_000_000_000;

/// A path and a query string, divided by the first `?`. What is refused is the client's fault and is not echoed at length;
/// what is asked for keeps to the limits.
pub fn http_params(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if let Some(route) = route(path) {
        assert!(route.pattern().starts_with('/'));
    }
    let refused = |refusal: crate::refusal::Refusal| {
        assert_eq!(refusal.kind, Kind::Rejected);
        assert!(refusal.message.len() < 1024, "{}", refusal.message);
    };
    let params = match Params::parse(Some(query)) {
        Ok(params) => params,
        Err(refusal) => return refused(refusal),
    };
    let (settings, limits) = (NodeSettings::default(), Limits::default());
    let rules = Rules {
        query: &settings.query,
        limits: &limits,
        now_unix_nanos: NOW,
    };
    match parse_search(&params, &rules) {
        Ok(search) => {
            assert!((1..=limits.search_limit_max).contains(&search.limit));
            assert!(search.spans_per_spanset <= limits.spans_per_spanset_max);
            assert!(search.window.start_unix_nanos < search.window.end_unix_nanos);
            if params.get("q").is_none() {
                query::parse(&search.query).expect("tags become a query that means something");
            }
        }
        Err(refusal) => refused(refusal),
    }
    let _ = parse_tags(&params, &rules).map_err(refused);
    let _ = parse_values(&params, &rules).map_err(refused);
    let _ = parse_trace(&params, NOW).map_err(refused);
}

/// The value of `X-Scope-OrgID`. What is let through is a tenant whose folder cannot leave its place.
pub fn tenant_header(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut settings = NodeSettings::default();
    settings.tenancy.multitenancy_enabled = true;
    let tenancy = Tenancy::new(&settings);
    let mut headers = HeaderMap::new();
    headers.append(TENANT_HEADER, value.clone());
    let check = |tenant: &model::TenantId| {
        let segment = tenant.path_segment();
        let is_safe = |c: char| c.is_ascii_alphanumeric() || "!_.*'()-%".contains(c);
        assert!(segment.chars().all(is_safe) && segment != "." && segment != "..");
        assert!((1..=150).contains(&tenant.as_str().len()));
    };
    match tenancy.of_write(&headers) {
        Ok(tenant) => check(&tenant),
        Err(refusal) => assert_eq!(refusal.kind, Kind::Unauthenticated),
    }
    match tenancy.of_read(&headers) {
        Ok(tenants) => {
            assert!(!tenants.is_empty());
            tenants.iter().for_each(check);
        }
        Err(refusal) => assert!(matches!(refusal.kind, Kind::Unauthenticated | Kind::Rejected)),
    }
    headers.append(TENANT_HEADER, value);
    assert!(tenancy.of_write(&headers).is_err(), "two headers");
}
