//! Nodes with an admin API: one resource to read, one to send commands to.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use super::trust::Trust;
use super::{AdminError, Command, NodeAddress, NodeAdmin, NodeStatus, TIMEOUT};
use crate::names;

/// Longest answer that is read.
const ANSWER_MAX: usize = 4 << 20;

/// Speaks with nodes over HTTP.
#[derive(Debug, Clone)]
pub struct HttpAdmin {
    http: reqwest::Client,
    /// None where nodes have no certificates.
    trust: Option<Trust>,
    port: u16,
}

impl HttpAdmin {
    pub fn new(http: reqwest::Client, trust: Option<Trust>) -> Self {
        let port = u16::try_from(names::ADMIN).expect("a port");
        Self { http, trust, port }
    }

    /// Nodes that listen elsewhere.
    #[cfg(test)]
    fn at(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The client and the address for one node. The address is the pod's, whatever a name leads to at this moment; the name
    /// is what its certificate is held against.
    fn way(&self, node: &NodeAddress, path: &str) -> Result<(reqwest::Client, String), AdminError> {
        let ip: IpAddr = node.ip.parse().map_err(|error| unreachable(node, error))?;
        let address = SocketAddr::new(ip, self.port);
        let Some(trust) = &self.trust else {
            return Ok((self.http.clone(), format!("http://{address}/admin/v1/{path}")));
        };
        let builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .resolve(&node.host, address);
        let client = trust.client(builder).map_err(|error| unreachable(node, error))?;
        Ok((client, format!("https://{}:{}/admin/v1/{path}", node.host, self.port)))
    }
}

pub(super) fn unreachable(node: &NodeAddress, source: impl Error + Send + Sync + 'static) -> AdminError {
    AdminError::Unreachable {
        pod: node.pod.clone(),
        source: Box::new(source),
    }
}

/// The body of an answer, at most [`ANSWER_MAX`] of it.
pub(super) async fn body(node: &NodeAddress, mut answer: reqwest::Response) -> Result<Vec<u8>, AdminError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(node, error))? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(AdminError::Refused {
                pod: node.pod.clone(),
                message: format!("its answer is longer than {ANSWER_MAX} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl NodeAdmin for HttpAdmin {
    async fn status(&self, node: &NodeAddress) -> Result<NodeStatus, AdminError> {
        let (http, url) = self.way(node, "status")?;
        let answer = http.get(url).send().await;
        let answer = answer
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| unreachable(node, error))?;
        let body = body(node, answer).await?;
        serde_json::from_slice(&body).map_err(|error| unreachable(node, error))
    }

    async fn tell(&self, node: &NodeAddress, command: &Command) -> Result<(), AdminError> {
        let (http, url) = self.way(node, "command")?;
        let answer = http.post(url).json(command).send().await;
        let answer = answer.map_err(|error| unreachable(node, error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&body(node, answer).await?).into_owned();
        Err(AdminError::Refused {
            pod: node.pod.clone(),
            message,
        })
    }
}

#[cfg(test)]
mod tests;
