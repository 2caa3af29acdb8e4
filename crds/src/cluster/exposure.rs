//! How the store is reached: which protocols, Services, Ingress, Gateway API, NetworkPolicy.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::{INVALID, REQUIRED, rule, rules, value};
use crate::section::section;

section! {
    /// Which protocols the Services offer. Containers always listen on the usual ports.
    pub struct Receivers {
        /// OpenTelemetry's own protocol.
        otlp: Otlp = Otlp::default(),
    }
}

section! {
    /// OTLP over gRPC and over HTTP.
    #[schemars(extend("x-kubernetes-validations" = rules([
        rule(
            INVALID,
            ".grpc.enabled",
            "one of grpc and http must be enabled, or no span could come in",
            format!("{} || {}", value("self", "grpc.enabled", "true"), value("self", "http.enabled", "true")),
        ),
        rule(
            INVALID,
            ".http.port",
            "grpc and http need ports of their own, and 3200 is the query port",
            format!(
                "{http} != {grpc} && {http} != 3200 && {grpc} != 3200",
                http = value("self", "http.port", "4318"),
                grpc = value("self", "grpc.port", "4317")
            ),
        ),
    ])))]
    pub struct Otlp {
        /// OTLP over gRPC.
        grpc: GrpcReceiver = GrpcReceiver::default(),
        /// OTLP over HTTP.
        http: HttpReceiver = HttpReceiver::default(),
    }
}

section! {
    /// OTLP over gRPC.
    pub struct GrpcReceiver {
        /// Whether the Services offer it. Change: live.
        enabled: bool = true,
        /// Port of the Services. Change: live.
        #[schemars(range(min = 1, max = 65535))]
        port: i32 = 4317,
    }
}

section! {
    /// OTLP over HTTP.
    pub struct HttpReceiver {
        /// Whether the Services offer it. Change: live.
        enabled: bool = true,
        /// Port of the Services. Change: live.
        #[schemars(range(min = 1, max = 65535))]
        port: i32 = 4318,
    }
}

section! {
    /// Services, Ingress, Gateway API, NetworkPolicy.
    pub struct Exposure {
        /// The Service that clients use, named after the cluster.
        service: ClientService = ClientService::default(),
        /// An Ingress to queries and OTLP/HTTP.
        ingress: IngressExposure = IngressExposure::default(),
        /// Routes of the Gateway API to queries, OTLP/HTTP and OTLP/gRPC.
        gateway: GatewayExposure = GatewayExposure::default(),
        /// Who may reach the nodes, and whom they may reach.
        network_policy: NetworkPolicyExposure = NetworkPolicyExposure::default(),
    }
}

/// Kind of Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

section! {
    /// The Service that clients use.
    pub struct ClientService {
        /// Kind of Service. Change: live.
        r#type: ServiceType = ServiceType::ClusterIP,
        /// Class of the load balancer, with type LoadBalancer. Default: the cluster's. Change: live.
        #[schemars(length(min = 1, max = 253))]
        load_balancer_class: Option<String> = None,
        /// Annotations, for the load balancer as a rule. Default: none. Change: live.
        #[schemars(extend("maxProperties" = 32))]
        annotations: BTreeMap<String, String> = BTreeMap::new(),
    }
}

section! {
    /// An Ingress.
    #[schemars(extend("x-kubernetes-validations" = rules([rule(
        REQUIRED,
        ".host",
        "an Ingress needs a host: without one it would take everybody's requests",
        "!has(self.enabled) || !self.enabled || (has(self.host) && self.host != '')",
    )])))]
    pub struct IngressExposure {
        /// Whether there is one. Change: live.
        enabled: bool = false,
        /// Ingress class. Default: the cluster's default class. Change: live.
        #[schemars(length(min = 1, max = 253))]
        class_name: Option<String> = None,
        /// Host name; the paths are those of the node's own ports. Default: none. Change: live.
        #[schemars(length(min = 1, max = 253))]
        host: Option<String> = None,
        /// Annotations. Default: none. Change: live.
        #[schemars(extend("maxProperties" = 32))]
        annotations: BTreeMap<String, String> = BTreeMap::new(),
        /// Secret with the certificate of the host. Default: none, plain HTTP. Change: live.
        #[schemars(length(min = 1, max = 253))]
        tls_secret_name: Option<String> = None,
    }
}

section! {
    /// Routes of the Gateway API, where its kinds are served.
    #[schemars(extend("x-kubernetes-validations" = rules([rule(
        REQUIRED,
        ".parentRefs",
        "name at least one Gateway to attach to",
        "!has(self.enabled) || !self.enabled || (has(self.parentRefs) && size(self.parentRefs) > 0)",
    )])))]
    pub struct GatewayExposure {
        /// Whether there are routes. Change: live.
        enabled: bool = false,
        /// Gateways to attach to. Default: none. Change: live.
        #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
        parent_refs: Vec<ParentReference> = Vec::new(),
        /// Host names. Default: those of the Gateway's listener. Change: live.
        #[schemars(length(max = 16), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
        hostnames: Vec<String> = Vec::new(),
    }
}

/// A Gateway, or one of its listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// Name of the Gateway. Required. Change: live.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace. Default: the cluster's own. Change: live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// One of its listeners. Default: all that fit. Change: live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

section! {
    /// Who may reach the nodes, and whom they may reach. It works where the network enforces NetworkPolicies.
    pub struct NetworkPolicyExposure {
        /// Whether there is one. Change: live.
        enabled: bool = true,
        /// Who may send spans. Default: everybody. Change: live.
        #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
        ingest_from: Vec<NetworkPolicyPeer> = Vec::new(),
        /// Who may ask questions and read metrics. Default: everybody. Change: live.
        #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
        query_from: Vec<NetworkPolicyPeer> = Vec::new(),
        /// Whom the nodes may reach beside each other, DNS and the object store. Default: nobody. Change: live.
        #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
        extra_egress: Vec<NetworkPolicyEgressRule> = Vec::new(),
    }
}
