//! Nodes with an admin API: one resource to read, one to send commands to.

use std::error::Error;

use super::{AdminError, Command, NodeAddress, NodeAdmin, NodeStatus};
use crate::names;

/// Longest answer that is read.
const ANSWER_MAX: usize = 4 << 20;

/// Speaks with nodes over HTTP.
#[derive(Debug, Clone)]
pub struct HttpAdmin {
    http: reqwest::Client,
    /// http or https.
    scheme: &'static str,
}

impl HttpAdmin {
    pub fn new(http: reqwest::Client, has_certificates: bool) -> Self {
        let scheme = if has_certificates { "https" } else { "http" };
        Self { http, scheme }
    }

    fn url(&self, node: &NodeAddress, path: &str) -> String {
        format!("{}://{}:{}/admin/v1/{path}", self.scheme, node.host, names::ADMIN)
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
        let answer = self.http.get(self.url(node, "status")).send().await;
        let answer = answer
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| unreachable(node, error))?;
        let body = body(node, answer).await?;
        serde_json::from_slice(&body).map_err(|error| unreachable(node, error))
    }

    async fn tell(&self, node: &NodeAddress, command: &Command) -> Result<(), AdminError> {
        let answer = self.http.post(self.url(node, "command")).json(command).send().await;
        let answer = answer.map_err(|error| unreachable(node, error))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&body(node, answer).await?).into_owned();
        Err(AdminError::Refused {
            pod: node.pod.clone(),
            message,
        })
    }
}
