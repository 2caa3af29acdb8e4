//! A node that is a whole cluster: it has no ring and no admin API, so what there is to know is read off its API for
//! everybody.

use std::time::Duration;

use settings::LimitSettings;

use super::http::{body, unreachable};
use super::{AdminError, Command, Drain, NodeAddress, NodeAdmin, NodeStatus, StorageView, limits_hash};
use crate::names;

/// Tenants that are looked at to see whether new limits have arrived.
const LOOKED_AT_MAX: usize = 16;

/// Speaks with a single node.
#[derive(Debug, Clone)]
pub struct StandaloneAdmin {
    http: reqwest::Client,
    /// The resource's uid: a single node has no identity of its own.
    cluster: String,
    /// What the node shall hold its tenants to.
    limits: LimitSettings,
}

impl StandaloneAdmin {
    pub fn new(http: reqwest::Client, cluster: String, limits: LimitSettings) -> Self {
        Self { http, cluster, limits }
    }

    async fn get(&self, node: &NodeAddress, path: &str) -> Result<(bool, String), AdminError> {
        let url = format!("http://{}:{}{path}", bracketed(&node.ip), names::QUERY);
        let answer = self
            .http
            .get(url)
            .send()
            .await
            .map_err(|error| unreachable(node, error))?;
        let is_success = answer.status().is_success();
        Ok((
            is_success,
            String::from_utf8_lossy(&body(node, answer).await?).into_owned(),
        ))
    }

    /// Whether the retention of the first tenants, and of one that is none, is as wanted: limits come as a whole.
    async fn has_limits(&self, node: &NodeAddress) -> Result<bool, AdminError> {
        let tenants = self.limits.tenants.keys().take(LOOKED_AT_MAX).map(String::as_str);
        for tenant in tenants.chain(["any-other-tenant"]) {
            let (_, said) = self.get(node, &format!("/status/overrides/{tenant}")).await?;
            let wanted = format!("retention: {}", self.limits.of(tenant).retention);
            if !said.lines().any(|line| line == wanted) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

/// "vivace 0.1.0 (abc)" or "vivace, version 0.1.0 ...": the first word that begins with a digit.
fn version_in(text: &str) -> Option<String> {
    let mut words = text.split(|character: char| !(character.is_ascii_alphanumeric() || ".-+".contains(character)));
    words
        .find(|word| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
}

impl NodeAdmin for StandaloneAdmin {
    async fn status(&self, node: &NodeAddress) -> Result<NodeStatus, AdminError> {
        let (_, version) = self.get(node, "/status/version").await?;
        let (ready, _) = self.get(node, "/ready").await?;
        let limits = if ready && self.has_limits(node).await? {
            Some(limits_hash(&self.limits))
        } else {
            None
        };
        Ok(NodeStatus {
            version: version_in(&version).unwrap_or_default(),
            incarnation: self.cluster.clone(),
            cluster_id: Some(self.cluster.clone()),
            raft_id: None,
            ready,
            drain: Drain::None,
            formats: 0,
            storage: if ready {
                StorageView::Usable { used_bytes: None }
            } else {
                StorageView::Unknown
            },
            view: None,
            signals: None,
            limits,
            trust: None,
            certificate: None,
        })
    }

    async fn tell(&self, node: &NodeAddress, _: &Command) -> Result<(), AdminError> {
        Err(AdminError::Standalone { pod: node.pod.clone() })
    }
}

/// The client for nodes: short patience, no proxies of the environment.
pub fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder().timeout(timeout).no_proxy().build()
}

#[cfg(test)]
mod tests {
    //! Text in, a version out.

    use super::*;

    #[test]
    fn versions_are_found_in_what_nodes_say() {
        assert_eq!(version_in("vivace 0.1.0 (abc1234)\n").as_deref(), Some("0.1.0"));
        assert_eq!(
            version_in("tempo, version 1.2.3-rc.1 (branch: x)").as_deref(),
            Some("1.2.3-rc.1")
        );
        assert_eq!(version_in("nothing"), None);
        assert_eq!(bracketed("fd00::1"), "[fd00::1]");
    }
}
