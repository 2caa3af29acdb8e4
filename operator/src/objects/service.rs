//! Services: one name for everything, one for spans, one for questions, one for each pod.

use std::collections::BTreeMap;

use crds::cluster::exposure::ServiceType;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::names;
use crate::validate::Cluster;

fn port(name: &str, port: i32, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(protocol.to_owned()),
        node_port: None,
    }
}

fn ingest_ports(cluster: &Cluster) -> Vec<ServicePort> {
    let otlp = &cluster.spec.receivers.otlp;
    let mut ports = Vec::new();
    if otlp.grpc.enabled {
        ports.push(port("otlp-grpc", otlp.grpc.port, "kubernetes.io/h2c"));
    }
    if otlp.http.enabled {
        ports.push(port("otlp-http", otlp.http.port, "http"));
    }
    ports
}

fn query_port() -> ServicePort {
    port("http-query", names::QUERY, "http")
}

pub(super) fn build(cluster: &Cluster) -> Vec<Service> {
    let exposed = &cluster.spec.exposure.service;
    let both = ingest_ports(cluster).into_iter().chain([query_port()]).collect();
    let mut clients = service(cluster, &cluster.name, both);
    if !exposed.annotations.is_empty() {
        clients.metadata.annotations = Some(exposed.annotations.clone());
    }
    if let Some(spec) = &mut clients.spec {
        spec.type_ = Some(
            match exposed.r#type {
                ServiceType::ClusterIP => "ClusterIP",
                ServiceType::NodePort => "NodePort",
                ServiceType::LoadBalancer => "LoadBalancer",
            }
            .to_owned(),
        );
        if exposed.r#type == ServiceType::LoadBalancer {
            spec.load_balancer_class.clone_from(&exposed.load_balancer_class);
        }
    }
    let mut peers = service(
        cluster,
        &names::peers(&cluster.name),
        vec![
            port("raft", names::PEER, "kubernetes.io/h2c"),
            port("http-admin", names::ADMIN, "http"),
            query_port(),
        ],
    );
    if let Some(spec) = &mut peers.spec {
        spec.cluster_ip = Some("None".to_owned());
        // A learner must be found before it is ready.
        spec.publish_not_ready_addresses = Some(true);
    }
    vec![
        clients,
        service(cluster, &names::ingest(&cluster.name), ingest_ports(cluster)),
        service(cluster, &names::query(&cluster.name), vec![query_port()]),
        peers,
    ]
}

fn service(cluster: &Cluster, name: &str, ports: Vec<ServicePort>) -> Service {
    let selector: BTreeMap<String, String> = names::selector(&cluster.name);
    Service {
        metadata: metadata(cluster, name),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
