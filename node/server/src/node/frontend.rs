//! Questions to the cluster: sent where the live spans are, or answered here.
//!
//! Owns [`Frontend`]. A trace lies in one shard, so a question for a trace goes to that shard's leader, whose answer is
//! whole. Other questions need many shards and are answered here, with the live spans of other nodes read from there
//! ([`super::tails`]).

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use model::{NodeId, TenantId};

use super::reader::Reader;
use super::ring::RingPort;
use super::route::Router;
use crate::peer::PeerTransport;
use crate::peer::question::{Question, Reply};
use crate::preview::Watching;
use crate::querier::{
    MetricsAnswer, MetricsQuestion, Places, Querier, SearchAnswer, SearchQuestion, TagsAnswer, TagsQuestion,
    TraceAnswer, TraceQuestion, ValuesAnswer, ValuesQuestion,
};
use crate::refusal::Refusal;

/// One try at another node.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// While an election is on, an answer is worth waiting for.
const WHOLE_WITHIN: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(150);

/// See the module's documentation.
pub(super) struct Frontend {
    pub(super) local: Arc<Reader>,
    pub(super) ring: Arc<RingPort>,
    pub(super) router: Arc<Router>,
    /// `None`: this node is alone.
    pub(super) peers: Option<PeerTransport>,
}

impl Frontend {
    async fn trace(&self, question: TraceQuestion) -> Result<TraceAnswer, Refusal> {
        // Picks stay here: they are no part of what nodes say to each other.
        let is_sent = question.places != Places::Blocks && question.pick.is_none();
        let Some(peers) = self.peers.as_ref().filter(|_| is_sent) else {
            return self.local.trace_by_id(question).await;
        };
        let mut whole = TraceAnswer::default();
        for tenant in question.tenants.iter() {
            let one = TraceQuestion {
                tenants: Arc::from([tenant.clone()]),
                ..question.clone()
            };
            let answer = self.trace_of(peers, tenant, one).await?;
            whole.is_cut |= answer.is_cut;
            whole.stats.add(answer.stats);
            whole.missing.extend(answer.missing);
            // Protobuf of two messages one after the other is that of both.
            whole.trace = match whole.trace.is_empty() {
                true => answer.trace,
                false => [&whole.trace[..], &answer.trace[..]].concat().into(),
            };
        }
        Ok(whole)
    }

    /// Asks the leader, again while its answer lacks something and there is time.
    async fn trace_of(
        &self,
        peers: &PeerTransport,
        tenant: &TenantId,
        question: TraceQuestion,
    ) -> Result<TraceAnswer, Refusal> {
        let deadline = tokio::time::Instant::now() + WHOLE_WITHIN;
        let hash = tenant.placement_hash(&question.trace_id);
        for tries in 0.. {
            let view = self.ring.ring_view();
            let target = match view.state.map.shard_of(hash) {
                Some(record) => self.router.target(record, tries),
                None => self.ring.node(),
            };
            let answer = if target == self.ring.node() {
                self.local.trace_by_id(question.clone()).await?
            } else {
                match self.ask(peers, target, &question).await {
                    Some(answer) => answer,
                    None => self.local.trace_by_id(question.clone()).await?,
                }
            };
            if answer.missing.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(answer);
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.local.trace_by_id(question).await
    }

    async fn ask(&self, peers: &PeerTransport, node: NodeId, question: &TraceQuestion) -> Option<TraceAnswer> {
        let asked = Question::Trace(question.clone()).encode();
        let bytes = peers.ask(node, asked, ASK_WITHIN).await.ok()?;
        match Reply::decode(bytes) {
            Ok(Reply::Trace(answer)) => Some(answer),
            Ok(_) | Err(_) => None,
        }
    }
}

impl Querier for Frontend {
    fn trace_by_id(&self, question: TraceQuestion) -> BoxFuture<'_, Result<TraceAnswer, Refusal>> {
        Box::pin(self.trace(question))
    }

    fn search(
        &self,
        question: SearchQuestion,
        watching: Watching<SearchAnswer>,
    ) -> BoxFuture<'_, Result<SearchAnswer, Refusal>> {
        self.local.search(question, watching)
    }

    fn metrics(
        &self,
        question: MetricsQuestion,
        watching: Watching<MetricsAnswer>,
    ) -> BoxFuture<'_, Result<MetricsAnswer, Refusal>> {
        self.local.metrics(question, watching)
    }

    fn tags(
        &self,
        question: TagsQuestion,
        watching: Watching<TagsAnswer>,
    ) -> BoxFuture<'_, Result<TagsAnswer, Refusal>> {
        self.local.tags(question, watching)
    }

    fn tag_values(
        &self,
        question: ValuesQuestion,
        watching: Watching<ValuesAnswer>,
    ) -> BoxFuture<'_, Result<ValuesAnswer, Refusal>> {
        self.local.tag_values(question, watching)
    }
}
