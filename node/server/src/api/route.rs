//! Paths into routes, by hand: tag names may hold slashes, percent signs and anything else, encoded once or twice.

use super::params::percent_decode;

/// A place of the API. The strings are decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Echo,
    BuildInfo,
    TraceV1(String),
    TraceV2(String),
    Search,
    Tags,
    TagsV2,
    TagValues(String),
    TagValuesV2(String),
    MetricsRange,
    MetricsInstant,
    TraceDiff,
    Mcp,
    Ready,
    Metrics,
    Status,
    StatusVersion,
    StatusConfig,
    StatusRuntimeConfig,
    StatusServices,
    StatusEndpoints,
    StatusOverrides(Option<String>),
}

/// The route of a path as it came in the request line. `None`: nothing is there.
pub(crate) fn route(path: &str) -> Option<Route> {
    let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
    let tag = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("/values").and_then(tag_name);
    Some(match path {
        "/api/echo" => Route::Echo,
        "/api/status/buildinfo" => Route::BuildInfo,
        "/api/search" => Route::Search,
        "/api/search/tags" => Route::Tags,
        "/api/v2/search/tags" => Route::TagsV2,
        "/api/metrics/query_range" => Route::MetricsRange,
        "/api/metrics/query" => Route::MetricsInstant,
        "/api/v2/traces/diff" => Route::TraceDiff,
        "/api/mcp" => Route::Mcp,
        "/ready" => Route::Ready,
        "/metrics" => Route::Metrics,
        "/status" => Route::Status,
        "/status/version" => Route::StatusVersion,
        "/status/config" => Route::StatusConfig,
        "/status/runtime_config" => Route::StatusRuntimeConfig,
        "/status/services" => Route::StatusServices,
        "/status/endpoints" => Route::StatusEndpoints,
        "/status/overrides" => Route::StatusOverrides(None),
        _ => {
            if let Some(id) = path.strip_prefix("/api/v2/traces/") {
                Route::TraceV2(one_segment(id)?)
            } else if let Some(id) = path.strip_prefix("/api/traces/") {
                Route::TraceV1(one_segment(id)?)
            } else if let Some(name) = tag("/api/v2/search/tag/") {
                Route::TagValuesV2(name)
            } else if let Some(name) = tag("/api/search/tag/") {
                Route::TagValues(name)
            } else {
                Route::StatusOverrides(Some(one_segment(path.strip_prefix("/status/overrides/")?)?))
            }
        }
    })
}

/// Why a page that Tempo has is not here, and where to look instead. `None`: Tempo does not have it either.
pub(crate) fn absence(path: &str) -> Option<&'static str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    Some(match path {
        "/status/usage-stats" => "no usage is reported to anybody, so there are no usage stats",
        "/status/backendscheduler" | "/backend-worker/ring" => {
            "there is no backend scheduler: the leader of the ring merges and deletes blocks, see /metrics"
        }
        "/memberlist" | "/distributor/ring" | "/live-store/ring" | "/partition-ring" | "/partition/ring" => {
            "nodes know each other by a Raft group: ask `vivace admin status` at the admin port"
        }
        "/usage_metrics" => "there is no cost attribution; spans and bytes by tenant are in /metrics",
        "/live-store/prepare-downscale" | "/live-store/prepare-partition-downscale" => {
            "a node is drained by `vivace admin drain` at the admin port"
        }
        "/api/overrides" => "limits of tenants are in the settings file, read them at /status/overrides",
        _ if path.starts_with("/debug/pprof") => "there are no profiles of Go here; see /metrics",
        _ => return None,
    })
}

impl Route {
    /// Whether the question is in the body, which then must be posted.
    pub(crate) fn is_posted(&self) -> bool {
        matches!(self, Self::TraceDiff | Self::Mcp)
    }

    /// The pattern, for metrics: never what a client wrote.
    pub(crate) fn pattern(&self) -> &'static str {
        match self {
            Self::Echo => "/api/echo",
            Self::BuildInfo => "/api/status/buildinfo",
            Self::TraceV1(_) => "/api/traces/{traceID}",
            Self::TraceV2(_) => "/api/v2/traces/{traceID}",
            Self::Search => "/api/search",
            Self::Tags => "/api/search/tags",
            Self::TagsV2 => "/api/v2/search/tags",
            Self::TagValues(_) => "/api/search/tag/{tagName}/values",
            Self::TagValuesV2(_) => "/api/v2/search/tag/{tagName}/values",
            Self::MetricsRange => "/api/metrics/query_range",
            Self::MetricsInstant => "/api/metrics/query",
            Self::TraceDiff => "/api/v2/traces/diff",
            Self::Mcp => "/api/mcp",
            Self::Ready => "/ready",
            Self::Metrics => "/metrics",
            Self::Status => "/status",
            Self::StatusVersion => "/status/version",
            Self::StatusConfig => "/status/config",
            Self::StatusRuntimeConfig => "/status/runtime_config",
            Self::StatusServices => "/status/services",
            Self::StatusEndpoints => "/status/endpoints",
            Self::StatusOverrides(None) => "/status/overrides",
            Self::StatusOverrides(Some(_)) => "/status/overrides/{tenant}",
        }
    }

    /// Every pattern there is, for the page that lists them.
    pub(crate) fn patterns() -> Vec<&'static str> {
        let name = String::new;
        [
            Self::Echo,
            Self::BuildInfo,
            Self::TraceV1(name()),
            Self::TraceV2(name()),
            Self::Search,
            Self::Tags,
            Self::TagsV2,
            Self::TagValues(name()),
            Self::TagValuesV2(name()),
            Self::MetricsRange,
            Self::MetricsInstant,
            Self::TraceDiff,
            Self::Mcp,
            Self::Ready,
            Self::Metrics,
            Self::Status,
            Self::StatusVersion,
            Self::StatusConfig,
            Self::StatusRuntimeConfig,
            Self::StatusServices,
            Self::StatusEndpoints,
            Self::StatusOverrides(None),
            Self::StatusOverrides(Some(name())),
        ]
        .iter()
        .map(Self::pattern)
        .collect()
    }
}

fn one_segment(text: &str) -> Option<String> {
    let decoded = percent_decode(text)?;
    (!decoded.is_empty() && !text.contains('/')).then_some(decoded)
}

/// Grafana encodes the name twice, other clients once; a name that decodes again was encoded twice.
fn tag_name(text: &str) -> Option<String> {
    let once = percent_decode(text)?;
    let name = percent_decode(&once).unwrap_or(once);
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    //! Paths in, routes out.

    use super::*;

    #[test]
    fn every_path_has_its_route() {
        let name = |name: &str| name.to_owned();
        for (path, expected) in [
            ("/api/echo", Some(Route::Echo)),
            ("/api/echo/", Some(Route::Echo)),
            ("/api/status/buildinfo", Some(Route::BuildInfo)),
            ("/api/traces/0af7", Some(Route::TraceV1(name("0af7")))),
            ("/api/v2/traces/0af7", Some(Route::TraceV2(name("0af7")))),
            ("/api/traces/", None),
            ("/api/traces/a/b", None),
            ("/api/search", Some(Route::Search)),
            ("/api/search/tags", Some(Route::Tags)),
            ("/api/v2/search/tags", Some(Route::TagsV2)),
            (
                "/api/search/tag/service.name/values",
                Some(Route::TagValues(name("service.name"))),
            ),
            ("/api/v2/search/tag/.a/values", Some(Route::TagValuesV2(name(".a")))),
            (
                "/api/v2/search/tag/span.a/b/values",
                Some(Route::TagValuesV2(name("span.a/b"))),
            ),
            (
                "/api/v2/search/tag/span.a%2Fb/values",
                Some(Route::TagValuesV2(name("span.a/b"))),
            ),
            (
                "/api/v2/search/tag/span.a%252Fb/values",
                Some(Route::TagValuesV2(name("span.a/b"))),
            ),
            (
                "/api/v2/search/tag/span.100%25/values",
                Some(Route::TagValuesV2(name("span.100%"))),
            ),
            (
                "/api/v2/search/tag/values/values",
                Some(Route::TagValuesV2(name("values"))),
            ),
            ("/api/v2/search/tag//values", None),
            ("/api/v2/search/tag/values", None),
            ("/api/v2/search/tag/%ff/values", None),
            ("/api/v2/search/tag/%zz/values", None),
            ("/ready", Some(Route::Ready)),
            ("/metrics", Some(Route::Metrics)),
            ("/status", Some(Route::Status)),
            ("/status/overrides", Some(Route::StatusOverrides(None))),
            (
                "/status/overrides/acme",
                Some(Route::StatusOverrides(Some(name("acme")))),
            ),
            ("/", None),
            ("", None),
            ("/api", None),
            ("/API/echo", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn what_only_tempo_has_is_told_and_is_not_a_route() {
        for path in [
            "/status/usage-stats",
            "/status/backendscheduler/",
            "/memberlist",
            "/usage_metrics",
            "/live-store/prepare-downscale",
            "/api/overrides",
            "/debug/pprof/heap",
        ] {
            assert_eq!((route(path), absence(path).is_some()), (None, true), "{path}");
        }
        assert_eq!(absence("/status/anything"), None);
        assert!(Route::patterns().into_iter().all(|pattern| absence(pattern).is_none()));
    }

    #[test]
    fn every_pattern_leads_to_itself() {
        for pattern in Route::patterns() {
            let path = pattern
                .replace("{traceID}", "1")
                .replace("{tagName}", "x")
                .replace("{tenant}", "t");
            assert_eq!(route(&path).unwrap().pattern(), pattern);
        }
    }
}
