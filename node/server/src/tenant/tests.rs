//! Headers in, tenants or a refusal out.

use http::HeaderValue;

use super::*;

fn tenancy(yaml: &str) -> Tenancy {
    Tenancy::new(&settings::parse(yaml).unwrap())
}

fn headers(values: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(TENANT_HEADER, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn write(values: &[&[u8]]) -> Result<String, (Kind, String)> {
    tenancy("tenancy: {multitenancy_enabled: true}")
        .of_write(&headers(values))
        .map(|tenant| tenant.to_string())
        .map_err(|refusal| (refusal.kind, refusal.message.into_owned()))
}

fn read(values: &[&[u8]]) -> Result<Vec<String>, Kind> {
    tenancy("tenancy: {multitenancy_enabled: true}")
        .of_read(&headers(values))
        .map(|tenants| tenants.iter().map(ToString::to_string).collect())
        .map_err(|refusal| refusal.kind)
}

#[test]
fn without_multitenancy_the_header_is_not_looked_at() {
    let tenancy = tenancy("");
    for values in [
        &[][..],
        &[b"../x".as_slice()][..],
        &[b"a".as_slice(), b"b".as_slice()][..],
    ] {
        assert_eq!(tenancy.of_write(&headers(values)).unwrap(), TenantId::single());
        assert_eq!(&*tenancy.of_read(&headers(values)).unwrap(), &[TenantId::single()]);
    }
}

#[test]
fn a_good_header_names_the_tenant() {
    for name in ["a", "Team-1", "a!_.*'()-z", &"x".repeat(149), &"x".repeat(150)] {
        assert_eq!(write(&[name.as_bytes()]), Ok(name.to_owned()));
    }
}

#[test]
fn a_bad_header_is_401() {
    assert_eq!(write(&[]), Err((Kind::Unauthenticated, "no org id".into())));
    assert_eq!(write(&[b""]), Err((Kind::Unauthenticated, "no org id".into())));
    let long = "x".repeat(151);
    for name in [
        long.as_bytes(),
        b"a/b",
        b"..",
        b".",
        b"a b",
        b"a\tb",
        b"a|b",
        b"a%2fb",
        b"\xc3\xa4",
        b"a\\b",
        b"a\"b",
    ] {
        let (kind, _) = write(&[name]).unwrap_err();
        assert_eq!(kind, Kind::Unauthenticated, "{name:?}");
    }
    assert_eq!(write(&[b"a", b"a"]).unwrap_err().0, Kind::Unauthenticated);
}

#[test]
fn a_read_may_name_several() {
    assert_eq!(read(&[b"b|a|b"]), Ok(vec!["a".into(), "b".into()]));
    assert_eq!(read(&[b"a|"]), Err(Kind::Unauthenticated));
    assert_eq!(read(&[b"|"]), Err(Kind::Unauthenticated));
    let names = |n: usize| (0..n).map(|i| format!("t{i}")).collect::<Vec<_>>().join("|");
    assert_eq!(read(&[names(63).as_bytes()]).unwrap().len(), 63);
    assert_eq!(read(&[names(64).as_bytes()]).unwrap().len(), 64);
    assert_eq!(read(&[names(65).as_bytes()]), Err(Kind::Rejected));
}

#[test]
fn tenants_that_come_into_being_are_capped() {
    let tenancy =
        tenancy("{tenancy: {multitenancy_enabled: true, tenants_auto_max: 2}, limits: {tenants: {known: {}}}}");
    let admit = |name: &str| {
        tenancy
            .admit(&TenantId::new(name).unwrap())
            .map_err(|refusal| refusal.kind)
    };
    assert_eq!(admit("a"), Ok(()));
    assert_eq!(admit("b"), Ok(()));
    assert_eq!(admit("c"), Err(Kind::Forbidden));
    assert_eq!(admit("a"), Ok(()), "known ones stay welcome");
    assert_eq!(admit("known"), Ok(()), "configured ones do not count");
}

#[test]
fn without_auto_tenants_only_configured_ones_write() {
    let tenancy =
        tenancy("{tenancy: {multitenancy_enabled: true, tenants_auto: false}, limits: {tenants: {known: {}}}}");
    assert!(tenancy.admit(&TenantId::new("known").unwrap()).is_ok());
    assert_eq!(
        tenancy.admit(&TenantId::new("x").unwrap()).unwrap_err().kind,
        Kind::Forbidden
    );
}

#[test]
fn settings_and_model_agree_on_what_a_tenant_is() {
    let long = "x".repeat(151);
    for name in [
        "a",
        "",
        ".",
        "..",
        "...",
        "a/b",
        "a|b",
        "é",
        "A9!_.*'()-",
        &long,
        &long[..150],
        "a b",
        "a\0",
    ] {
        assert_eq!(
            settings::limits::is_tenant_id(name),
            TenantId::new(name).is_ok(),
            "{name:?}"
        );
    }
}
