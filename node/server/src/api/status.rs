//! Pages for operators: ready, metrics, status.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use settings::{LimitSettings, NodeSettings};

use super::answer::Spelled;
use super::params::{Params, refuse};
use super::route::Route;
use super::{Api, Readiness};
use crate::metrics::Metrics;
use crate::refusal::{Kind, Refusal};

fn page(body: impl Into<Vec<u8>>, content_type: &'static str) -> Spelled {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Spelled {
        body: body.into(),
        headers,
    }
}

pub(super) fn text(body: &str) -> Spelled {
    page(body, "text/plain; charset=utf-8")
}

/// What Grafana reads to learn what the server can do; the version is the one of the API that is spoken.
pub(super) fn build_info() -> Spelled {
    let body = json!({
        "version": crate::VERSION,
        "revision": crate::REVISION,
        "branch": "",
        "buildDate": "",
        "buildUser": "",
        "goVersion": "",
    });
    page(body.to_string(), "application/json")
}

pub(super) fn ready(readiness: &Readiness) -> Result<Spelled, Refusal> {
    if readiness.is_ready() {
        Ok(text("ready\n"))
    } else {
        Err(Refusal::new(Kind::Unavailable, "not ready"))
    }
}

pub(super) fn metrics(metrics: &Metrics) -> Spelled {
    page(
        metrics.encode(),
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )
}

pub(super) fn overview(api: &Api) -> Spelled {
    let cluster = &api.settings.node.cluster;
    let state = if api.readiness.is_ready() { "ready" } else { "not ready" };
    text(&format!(
        "vivace {} ({})\ncluster {cluster}\n{state}\n{}\n{}",
        crate::VERSION,
        crate::REVISION,
        api.notices.lines(),
        Route::patterns()
            .into_iter()
            .filter(|pattern| pattern.starts_with("/status/"))
            .collect::<Vec<_>>()
            .join("\n")
    ))
}

/// The settings in effect; `mode=defaults` those of an empty file, `mode=diff` the lines that differ.
pub(super) fn config(settings: &NodeSettings, query: Option<&str>) -> Result<Spelled, Refusal> {
    let params = Params::parse(query)?;
    let body = match params.get("mode") {
        None => settings.to_yaml(),
        Some("defaults") => NodeSettings::default().to_yaml(),
        Some("diff") => {
            let defaults = lines_with_path(&NodeSettings::default().to_yaml());
            let mut body = String::new();
            for line in lines_with_path(&settings.to_yaml()) {
                if !defaults.contains(&line) {
                    body.push_str(&line);
                    body.push('\n');
                }
            }
            body
        }
        Some(_) => return Err(refuse("invalid mode: must be diff or defaults")),
    };
    Ok(text(&body))
}

/// The section of the settings that is read again while the node runs, as it is in effect; `mode=diff` what differs from
/// the defaults.
pub(super) fn runtime_config(limits: &LimitSettings, query: Option<&str>) -> Result<Spelled, Refusal> {
    let of = |limits: LimitSettings| NodeSettings {
        limits,
        ..NodeSettings::default()
    };
    let lines = |settings: &NodeSettings| {
        let lines = lines_with_path(&settings.to_yaml()).into_iter();
        lines.filter(|line| line.starts_with("limits.")).collect::<Vec<_>>()
    };
    let mut shown = lines(&of(limits.clone()));
    match Params::parse(query)?.get("mode") {
        None => {}
        Some("diff") => {
            let defaults = lines(&NodeSettings::default());
            shown.retain(|line| !defaults.contains(line));
        }
        Some(_) => return Err(refuse("invalid mode: must be diff")),
    }
    Ok(text(&shown.into_iter().map(|line| line + "\n").collect::<String>()))
}

/// `a:\n  b: 1` as `a.b: 1`, so that a line says where it belongs.
fn lines_with_path(yaml: &str) -> Vec<String> {
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut lines = Vec::new();
    for line in yaml.lines() {
        let indent = line.len() - line.trim_start().len();
        while path.last().is_some_and(|(outer, _)| *outer >= indent) {
            path.pop();
        }
        let line = line.trim();
        let before: String = path.iter().map(|(_, name)| format!("{name}.")).collect();
        match line.strip_suffix(':') {
            Some(name) => path.push((indent, name.to_owned())),
            None => lines.push(format!("{before}{line}")),
        }
    }
    lines
}

pub(super) fn services(readiness: &Readiness) -> Spelled {
    let state = if readiness.is_ready() { "Running" } else { "Starting" };
    text(&format!("otlp-grpc {state}\notlp-http {state}\nquery-api {state}\n"))
}

pub(super) fn endpoints() -> Spelled {
    text(&(Route::patterns().join("\n") + "\n"))
}

pub(super) fn overrides(limits: &LimitSettings, tenant: Option<&str>) -> Result<Spelled, Refusal> {
    let one = |name: &str| {
        let of = LimitSettings {
            defaults: limits.of(name),
            tenants: std::collections::BTreeMap::new(),
        };
        NodeSettings {
            limits: of,
            ..NodeSettings::default()
        }
        .to_yaml()
    };
    let section = |yaml: String| {
        let lines = lines_with_path(&yaml).into_iter();
        lines
            .filter_map(|line| line.strip_prefix("limits.defaults.").map(|line| format!("{line}\n")))
            .collect::<String>()
    };
    match tenant {
        None => {
            let names: String = limits.tenants.keys().map(|name| format!("{name}\n")).collect();
            Ok(text(&names))
        }
        Some(tenant) if settings::limits::is_tenant_id(tenant) => Ok(text(&section(one(tenant)))),
        Some(_) => Err(refuse("not a tenant id")),
    }
}

#[cfg(test)]
mod tests {
    //! Settings in, lines out.

    use super::*;

    fn body(spelled: Spelled) -> String {
        String::from_utf8(spelled.body).unwrap()
    }

    #[test]
    fn the_diff_names_what_was_changed() {
        let settings = settings::parse("{flush: {tail_age: 30s}, limits: {tenants: {acme: {retention: 3d}}}}").unwrap();
        assert_eq!(
            body(config(&settings, Some("mode=diff")).unwrap()),
            "limits.tenants.acme.retention: 3d\nflush.tail_age: 30s\n"
        );
        assert_eq!(body(config(&NodeSettings::default(), Some("mode=diff")).unwrap()), "");
        assert!(config(&settings, Some("mode=x")).is_err());
    }

    #[test]
    fn the_runtime_configuration_is_the_limits_in_effect() {
        let limits = settings::parse("limits: {tenants: {acme: {retention: 3d}}}")
            .unwrap()
            .limits;
        let all = body(runtime_config(&limits, None).unwrap());
        assert!(
            all.contains("limits.defaults.retention: 14d\n") && !all.contains("flush"),
            "{all}"
        );
        assert_eq!(
            body(runtime_config(&limits, Some("mode=diff")).unwrap()),
            "limits.tenants.acme.retention: 3d\n"
        );
        let refused = runtime_config(&limits, Some("mode=defaults")).unwrap_err();
        assert_eq!(
            (refused.kind, &*refused.message),
            (Kind::Rejected, "invalid mode: must be diff")
        );
    }

    #[test]
    fn overrides_show_what_holds_for_a_tenant() {
        let limits = settings::parse("limits: {tenants: {acme: {retention: 3d}}}")
            .unwrap()
            .limits;
        assert_eq!(body(overrides(&limits, None).unwrap()), "acme\n");
        assert!(body(overrides(&limits, Some("acme")).unwrap()).contains("retention: 3d\n"));
        assert!(body(overrides(&limits, Some("other")).unwrap()).contains("retention: 14d\n"));
        assert!(overrides(&limits, Some("a/b")).is_err());
    }
}
