//! Which web pages may speak to the tools.
//!
//! A browser says in `Origin` which page a request comes from; other programs send none and are let in. A page's name can be
//! made to point here after the page was loaded (DNS rebinding), and then its requests are to the same host as far as the
//! browser is concerned. So a page is let in only if its origin is one of `query.mcp_origins`, or if it was loaded from this
//! very address and that is an IP address or `localhost`, which nobody can point elsewhere.

use std::net::IpAddr;

use ::http::header::{HOST, ORIGIN};
use ::http::uri::Authority;
use ::http::{HeaderMap, Uri};

/// Whether a request may come from where its browser says it does.
pub(super) fn is_let_in(uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return true,
        (Some(origin), None) => origin.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return false,
    };
    // HTTP/2 names the host in the request line, HTTP/1 in a header.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().map(Authority::as_str).or(host);
    let is_named = allowed.iter().any(|known| known.eq_ignore_ascii_case(origin));
    is_named || host.is_some_and(|host| is_of(origin, host))
}

/// Whether a page was loaded from this host, and this host is no name that could have been pointed here.
fn is_of(origin: &str, host: &str) -> bool {
    let page = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| origin.strip_prefix(scheme));
    let is_same = page.is_some_and(|page| page.eq_ignore_ascii_case(host));
    let Ok(host) = host.parse::<Authority>() else {
        return false;
    };
    let host = host.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    is_same && (bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets_in(origins: &[&str], host: &str, allowed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, origin.parse().unwrap());
        }
        headers.insert(HOST, host.parse().unwrap());
        let allowed: Vec<_> = allowed.iter().map(|&origin| origin.to_owned()).collect();
        let of_http1 = is_let_in(&Uri::from_static("/api/mcp"), &headers, &allowed);
        headers.remove(HOST);
        let uri = format!("http://{host}/api/mcp").parse().unwrap();
        assert_eq!(
            is_let_in(&uri, &headers, &allowed),
            of_http1,
            "HTTP/2: {origins:?} {host}"
        );
        of_http1
    }

    #[test]
    fn programs_that_are_no_browsers_are_let_in() {
        assert!(lets_in(&[], "tempo.example:3200", &[]));
    }

    #[test]
    fn a_page_from_this_address_is_let_in_unless_it_is_a_name() {
        for host in [
            "127.0.0.1:3200",
            "10.1.2.3",
            "[::1]:3200",
            "localhost:3200",
            "LOCALHOST",
        ] {
            assert!(lets_in(&[&format!("http://{host}")], host, &[]), "{host}");
            assert!(lets_in(&[&format!("https://{host}")], host, &[]), "{host}");
        }
        // What a rebound name looks like: the browser takes it for the same host.
        for host in [
            "evil.example:3200",
            "localhost.evil.example:3200",
            "127.0.0.1.evil.example",
        ] {
            assert!(!lets_in(&[&format!("http://{host}")], host, &[]), "{host}");
        }
    }

    #[test]
    fn pages_from_elsewhere_are_not_let_in() {
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:80",
            "http://127.0.0.1",
            "https://localhost:3200",
            "127.0.0.1:3200",
            "file://127.0.0.1:3200",
            "http://127.0.0.1:3200/",
            "http://user@127.0.0.1:3200",
            "null",
            "",
        ] {
            assert!(!lets_in(&[origin], "127.0.0.1:3200", &[]), "{origin:?}");
        }
        let own = "http://127.0.0.1:3200";
        assert!(!lets_in(&[own, own], "127.0.0.1:3200", &[]), "sent twice");
    }

    #[test]
    fn origins_that_are_named_are_let_in_and_no_others() {
        let allowed = ["https://tools.example", "vscode-webview://panel"];
        for origin in [
            "https://tools.example",
            "https://TOOLS.example",
            "vscode-webview://panel",
        ] {
            assert!(lets_in(&[origin], "127.0.0.1:3200", &allowed), "{origin}");
        }
        for origin in [
            "http://tools.example",
            "https://tools.example:8443",
            "https://tools.example.evil.example",
            "https://more.tools.example",
        ] {
            assert!(!lets_in(&[origin], "127.0.0.1:3200", &allowed), "{origin}");
        }
    }
}
