//! What keeps nodes safe from outside: how many may be evicted at once, who may reach them, who vouches for them.

use crds::cluster::security::TlsMode;
use crds::cluster::storage::CredentialsMode;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::DynamicObject;

use super::{Given, Served, dynamic, metadata};
use crate::names;
use crate::validate::Cluster;

/// Label of the operator's own pods, as the chart writes it.
const OPERATOR: (&str, &str) = (names::NAME, "vivace-operator");
const KUBERNETES_NAMESPACE: &str = "kubernetes.io/metadata.name";

fn selected(pairs: impl IntoIterator<Item = (String, String)>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(pairs.into_iter().collect()),
        match_expressions: None,
    }
}

/// One node at a time over all zones. With two nodes or fewer there is none: a budget that can never be met would only keep
/// people from draining machines.
pub(super) fn disruption_budget(cluster: &Cluster, given: &Given) -> Option<PodDisruptionBudget> {
    let pods: u32 = given.pods.iter().sum();
    (pods > 2).then(|| PodDisruptionBudget {
        metadata: metadata(cluster, &cluster.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selected(names::selector(&cluster.name))),
            // A pod that is broken may always go; holding it would keep a drain waiting for ever.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            min_available: None,
        }),
        status: None,
    })
}

fn port(number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}

/// Who may reach the nodes, and whom they may reach.
pub(super) fn network_policy(cluster: &Cluster, operator_namespace: &str) -> Option<NetworkPolicy> {
    let wanted = &cluster.spec.exposure.network_policy;
    if !wanted.enabled {
        return None;
    }
    let own = NetworkPolicyPeer {
        pod_selector: Some(selected(names::selector(&cluster.name))),
        ..NetworkPolicyPeer::default()
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(selected([(
            KUBERNETES_NAMESPACE.to_owned(),
            operator_namespace.to_owned(),
        )])),
        pod_selector: Some(selected([(OPERATOR.0.to_owned(), OPERATOR.1.to_owned())])),
        ip_block: None,
    };
    // No peers means everybody.
    let from = |peers: &[NetworkPolicyPeer]| (!peers.is_empty()).then(|| peers.to_vec());
    let mut query_from = from(&wanted.query_from);
    if let Some(peers) = &mut query_from {
        peers.extend([own.clone(), operator.clone()]);
    }
    let ingress = vec![
        NetworkPolicyIngressRule {
            from: from(&wanted.ingest_from),
            ports: Some(vec![port(names::OTLP_GRPC), port(names::OTLP_HTTP)]),
        },
        NetworkPolicyIngressRule {
            from: query_from,
            ports: Some(vec![port(names::QUERY)]),
        },
        NetworkPolicyIngressRule {
            from: Some(vec![own.clone()]),
            ports: Some(vec![port(names::PEER), port(names::ADMIN)]),
        },
        NetworkPolicyIngressRule {
            from: Some(vec![operator]),
            ports: Some(vec![port(names::ADMIN)]),
        },
    ];
    Some(NetworkPolicy {
        metadata: metadata(cluster, &cluster.name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selected(names::selector(&cluster.name))),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(egress(cluster, own)),
        }),
    })
}

fn egress(cluster: &Cluster, own: NetworkPolicyPeer) -> Vec<NetworkPolicyEgressRule> {
    let udp = NetworkPolicyPort {
        protocol: Some("UDP".to_owned()),
        ..port(53)
    };
    let mut rules = vec![
        NetworkPolicyEgressRule {
            to: Some(vec![own]),
            ports: None,
        },
        NetworkPolicyEgressRule {
            to: None,
            ports: Some(vec![udp, port(53)]),
        },
    ];
    // A store has no fixed addresses; its port is what can be said.
    let mut ports = vec![443];
    ports.extend(endpoint_port(cluster).filter(|port| *port != 443));
    rules.push(NetworkPolicyEgressRule {
        to: None,
        ports: Some(ports.into_iter().map(port).collect()),
    });
    if let Some(credentials) = &cluster.spec.storage.credentials
        && credentials.mode != CredentialsMode::Static
    {
        // Metadata services: of the machine (all clouds), of EKS Pod Identity, of GKE.
        let block = |cidr: &str| NetworkPolicyPeer {
            ip_block: Some(IPBlock {
                cidr: cidr.to_owned(),
                except: None,
            }),
            ..NetworkPolicyPeer::default()
        };
        rules.push(NetworkPolicyEgressRule {
            to: Some(vec![
                block("169.254.169.254/32"),
                block("169.254.170.23/32"),
                block("169.254.169.252/32"),
            ]),
            ports: Some(vec![port(80), port(988)]),
        });
    }
    rules.extend(cluster.spec.exposure.network_policy.extra_egress.clone());
    rules
}

/// Port of the store's endpoint, where one is written.
fn endpoint_port(cluster: &Cluster) -> Option<i32> {
    let storage = &cluster.spec.storage;
    let endpoint = (storage.s3.as_ref().and_then(|s3| s3.endpoint.as_ref()))
        .or_else(|| storage.azure.as_ref().and_then(|azure| azure.endpoint.as_ref()))?;
    let (scheme, rest) = endpoint.split_once("://")?;
    let authority = rest.split('/').next()?;
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    Some(port.unwrap_or(if scheme == "http" { 80 } else { 443 }))
}

/// cert-manager's Certificate for the nodes, with tls.mode CertManager.
pub(super) fn certificate(
    cluster: &Cluster,
    served: &Served,
    foreign: &mut Vec<DynamicObject>,
    missing: &mut Vec<&'static str>,
) {
    let tls = &cluster.spec.tls;
    let Some(issuer) = tls
        .issuer_ref
        .as_ref()
        .filter(|_| tls.mode == TlsMode::CertManager && cluster.has_certificates())
    else {
        return;
    };
    if !served.has(Served::CERTIFICATE) {
        missing.push(Served::CERTIFICATE);
        return;
    }
    let seconds = |period: &crds::Period| format!("{}s", period.duration().unwrap_or_default().as_secs());
    let spec = serde_json::json!({
        "secretName": names::peer_tls(&cluster.name),
        "commonName": cluster.name,
        "dnsNames": dns_names(cluster),
        "duration": seconds(&tls.duration),
        "renewBefore": seconds(&tls.renew_before),
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "usages": ["server auth", "client auth"],
        "issuerRef": {"name": issuer.name, "kind": format!("{:?}", issuer.kind), "group": "cert-manager.io"},
        "secretTemplate": {"labels": names::labels(&cluster.name)},
    });
    foreign.push(dynamic(
        Served::CERTIFICATE,
        metadata(cluster, names::peer_tls(&cluster.name)),
        spec,
    ));
}

/// Names that a node's certificate is good for: every pod behind the headless Service.
pub(crate) fn dns_names(cluster: &Cluster) -> Vec<String> {
    let peers = names::peers(&cluster.name);
    vec![
        format!("*.{peers}.{}.svc", cluster.namespace),
        format!("*.{peers}.{}.svc.cluster.local", cluster.namespace),
    ]
}
