//! The way in from outside: an Ingress, or routes of the Gateway API.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{Served, dynamic, metadata};
use crate::names;
use crate::validate::Cluster;

/// Path of OTLP over HTTP.
const TRACES: &str = "/v1/traces";
/// gRPC service of OTLP.
const OTLP_SERVICE: &str = "opentelemetry.proto.collector.trace.v1.TraceService";
/// gRPC service of Tempo's streaming queries.
const QUERY_SERVICE: &str = "tempopb.StreamingQuerier";

/// Queries and OTLP over HTTP under one host name. gRPC is left to the Gateway API: an Ingress has no common way to say it.
pub(super) fn ingress(cluster: &Cluster) -> Option<Ingress> {
    let wanted = &cluster.spec.exposure.ingress;
    let host = wanted.host.clone().filter(|_| wanted.enabled)?;
    let backend = |port: &str| IngressBackend {
        service: Some(IngressServiceBackend {
            name: cluster.name.clone(),
            port: Some(ServiceBackendPort {
                name: Some(port.to_owned()),
                number: None,
            }),
        }),
        resource: None,
    };
    let path = |path: &str, port: &str| HTTPIngressPath {
        path: Some(path.to_owned()),
        path_type: "Prefix".to_owned(),
        backend: backend(port),
    };
    let mut paths = Vec::new();
    if cluster.spec.receivers.otlp.http.enabled {
        paths.push(path(TRACES, "otlp-http"));
    }
    paths.push(path("/", "http-query"));
    let mut metadata = metadata(cluster, &cluster.name);
    if !wanted.annotations.is_empty() {
        metadata.annotations = Some(wanted.annotations.clone());
    }
    Some(Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: wanted.class_name.clone(),
            rules: Some(vec![IngressRule {
                host: Some(host.clone()),
                http: Some(HTTPIngressRuleValue { paths }),
            }]),
            tls: wanted.tls_secret_name.clone().map(|secret| {
                vec![IngressTLS {
                    hosts: Some(vec![host]),
                    secret_name: Some(secret),
                }]
            }),
            default_backend: None,
        }),
        status: None,
    })
}

/// An HTTPRoute for queries and OTLP over HTTP, a GRPCRoute for OTLP over gRPC and streaming queries.
pub(super) fn gateway(
    cluster: &Cluster,
    served: &Served,
    foreign: &mut Vec<DynamicObject>,
    missing: &mut Vec<&'static str>,
) {
    let wanted = &cluster.spec.exposure.gateway;
    if !wanted.enabled {
        return;
    }
    let otlp = &cluster.spec.receivers.otlp;
    let backend = |port: i32| json!([{"name": cluster.name, "port": port}]);
    let route = |rules: Vec<Value>| {
        let mut spec = json!({"parentRefs": wanted.parent_refs, "rules": rules});
        if !wanted.hostnames.is_empty() {
            spec["hostnames"] = json!(wanted.hostnames);
        }
        spec
    };
    let http_path = |path: &str, port: i32| {
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": backend(port),
        })
    };
    let grpc_service = |service: &str, port: i32| {
        json!({
            "matches": [{"method": {"type": "Exact", "service": service}}],
            "backendRefs": backend(port),
        })
    };
    let mut http = Vec::new();
    if otlp.http.enabled {
        http.push(http_path(TRACES, otlp.http.port));
    }
    http.push(http_path("/", names::QUERY));
    let mut grpc = Vec::new();
    if otlp.grpc.enabled {
        grpc.push(grpc_service(OTLP_SERVICE, otlp.grpc.port));
    }
    grpc.push(grpc_service(QUERY_SERVICE, names::QUERY));
    for (kind, rules) in [(Served::HTTP_ROUTE, http), (Served::GRPC_ROUTE, grpc)] {
        if served.has(kind) {
            foreign.push(dynamic(kind, metadata(cluster, &cluster.name), route(rules)));
        } else {
            missing.push(kind);
        }
    }
}
