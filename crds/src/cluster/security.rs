//! Certificates, tenants, and the account the nodes run as.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::placement::LocalReference;
use crate::quantity::Period;
use crate::rule::{FORBIDDEN, INVALID, REQUIRED, rule, rules, seconds, value};
use crate::section::section;

/// Where certificates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// No certificates. For one node alone: several speak with each other over TLS and nothing else.
    Disabled,
    /// The operator keeps a CA for the cluster and renews everything in time.
    #[default]
    SelfSigned,
    /// cert-manager issues them.
    CertManager,
    /// A Secret that somebody else keeps: tls.crt, tls.key, ca.crt.
    Secret,
}

section! {
    /// Certificates between nodes, and between operator and nodes. What clients see is the Ingress's or the Gateway's.
    #[schemars(extend("x-kubernetes-validations" = rules([
        rule(
            REQUIRED,
            ".issuerRef",
            "goes with tls.mode CertManager, and only with it",
            format!("has(self.issuerRef) == ({} == 'CertManager')", value("self", "mode", "'SelfSigned'")),
        ),
        rule(
            REQUIRED,
            ".secretRef",
            "goes with tls.mode Secret, and only with it",
            format!("has(self.secretRef) == ({} == 'Secret')", value("self", "mode", "'SelfSigned'")),
        ),
        rule(
            INVALID,
            ".renewBefore",
            "must be shorter than duration",
            format!(
                "({}) < ({})",
                seconds("(has(self.renewBefore) ? self.renewBefore : '30d')"),
                seconds("(has(self.duration) ? self.duration : '90d')")
            ),
        ),
        rule(
            INVALID,
            ".duration",
            "must be shorter than caDuration",
            format!(
                "({}) < ({})",
                seconds("(has(self.duration) ? self.duration : '90d')"),
                seconds("(has(self.caDuration) ? self.caDuration : '1825d')")
            ),
        ),
    ])))]
    pub struct Tls {
        /// Where certificates come from. Change: rolling restart.
        mode: TlsMode = TlsMode::SelfSigned,
        /// cert-manager's issuer. Change: live.
        issuer_ref: Option<IssuerReference> = None,
        /// Secret with tls.crt, tls.key and ca.crt. Change: rolling restart; what is in the Secret is taken up live.
        secret_ref: Option<LocalReference> = None,
        /// How long the operator's CA is good for; it is renewed after 80 % of it, and old and new are both believed meanwhile.
        /// Change: live, with the next CA.
        ca_duration: Period = Period::new("1825d"),
        /// How long a node's certificate is good for. Change: live, with the next certificate.
        duration: Period = Period::new("90d"),
        /// How long before its end a certificate is renewed. Change: live.
        renew_before: Period = Period::new("30d"),
    }
}

/// cert-manager's issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IssuerReference {
    /// Name of the issuer. Required. Change: live.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Issuer, in the same namespace, or ClusterIssuer. Change: live.
    #[serde(default)]
    pub kind: IssuerKind,
}

/// Kind of issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum IssuerKind {
    #[default]
    Issuer,
    ClusterIssuer,
}

/// How a tenant is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum AuthMode {
    /// Everything belongs to one tenant, single-tenant.
    #[default]
    None,
    /// By the header X-Scope-OrgID. Whoever reaches the ports is believed: keep them to a gateway or a NetworkPolicy.
    Header,
}

section! {
    /// Whose a span is.
    #[schemars(extend("x-kubernetes-validations" = rules([rule(
        FORBIDDEN,
        ".tenancy.mode",
        "Strict needs auth.mode Header: without it there is only one tenant",
        format!(
            "{} != 'Strict' || {} == 'Header'",
            value("self", "tenancy.mode", "'Open'"),
            value("self", "mode", "'None'")
        ),
    )])))]
    pub struct Auth {
        /// How a tenant is recognised. Change: rolling restart.
        mode: AuthMode = AuthMode::None,
        /// Which tenants there may be.
        tenancy: Tenancy = Tenancy::default(),
    }
}

/// Which tenants are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TenancyMode {
    /// Whoever sends is a tenant, up to maxTenants.
    #[default]
    Open,
    /// Only tenants that have a TracingTenant.
    Strict,
}

section! {
    /// Which tenants there may be.
    pub struct Tenancy {
        /// Whether a tenant needs a TracingTenant. Change: rolling restart.
        mode: TenancyMode = TenancyMode::Open,
        /// Tenants that may come into being by sending. Change: rolling restart.
        #[schemars(range(min = 0, max = 10000))]
        max_tenants: i32 = 1000,
        /// Namespaces beside the cluster's own that may hold TracingTenants for it. Default: none. Change: live.
        namespace_selector: Option<LabelSelector> = None,
    }
}

section! {
    /// The account the nodes run as.
    pub struct ServiceAccount {
        /// Let the operator make it. Change: rolling restart.
        create: bool = true,
        /// Its name. Default: the cluster's name. Change: rolling restart.
        #[schemars(length(min = 1, max = 253))]
        name: Option<String> = None,
        /// Annotations beside those that credentials.mode brings. Default: none. Change: live.
        #[schemars(extend("maxProperties" = 32))]
        annotations: BTreeMap<String, String> = BTreeMap::new(),
    }
}
