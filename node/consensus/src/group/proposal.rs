//! A proposal on its way: its share of the byte budgets, and the way back to whoever waits.
//!
//! openraft bounds messages, not bytes: with 64 KiB entries its queues would hold gigabytes. So every proposal first takes
//! a [`Permit`] from its group's [`Budget`] and from its node's. The permit travels with the responder and is given back
//! when openraft is done with the entry, not when the caller loses interest: a dropped future still has its bytes in
//! the log's queue.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::raft::responder::Responder;
use tokio::sync::oneshot;

use crate::error::ConsensusError;
use crate::payload::GroupId;
use crate::raft::Types;

/// Bytes that may be under way at once.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    in_flight_bytes: AtomicUsize,
}

impl Budget {
    /// A budget of `bytes_max`, all of it free.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            in_flight_bytes: AtomicUsize::new(0),
        })
    }

    /// Bytes taken now.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes.load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Result<Share, usize> {
        let grow = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.bytes_max);
        match self
            .in_flight_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, grow)
        {
            Ok(_) => Ok(Share {
                budget: self.clone(),
                bytes,
            }),
            Err(taken) => Err(taken),
        }
    }
}

#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.in_flight_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A share of both budgets, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _group: Share,
    _node: Share,
}

impl Permit {
    pub(crate) fn take(
        group: GroupId,
        of_group: &Arc<Budget>,
        of_node: &Arc<Budget>,
        bytes: usize,
    ) -> Result<Self, ConsensusError> {
        let throttled = |in_flight_bytes| ConsensusError::GroupThrottled {
            group,
            in_flight_bytes,
            bytes_max: of_group.bytes_max,
        };
        let share = of_group.take(bytes).map_err(throttled)?;
        let throttled = |in_flight_bytes| ConsensusError::NodeThrottled {
            in_flight_bytes,
            bytes_max: of_node.bytes_max,
        };
        Ok(Self {
            _group: share,
            _node: of_node.take(bytes).map_err(throttled)?,
        })
    }
}

/// What openraft calls when it is done with a proposal.
pub(crate) struct ProposalResponder<T> {
    done: oneshot::Sender<T>,
    permit: Option<Permit>,
}

impl<T> ProposalResponder<T> {
    pub(crate) fn new(permit: Permit) -> (Self, oneshot::Receiver<T>) {
        let (done, outcome) = oneshot::channel();
        (
            Self {
                done,
                permit: Some(permit),
            },
            outcome,
        )
    }
}

impl<T: Send + 'static> Responder<Types, T> for ProposalResponder<T> {
    fn on_complete(self, result: T) {
        drop(self.permit);
        // The caller may have gone; the entry is committed all the same.
        let _ = self.done.send(result);
    }
}

impl<T> fmt::Debug for ProposalResponder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProposalResponder")
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(group: &Arc<Budget>, node: &Arc<Budget>, bytes: usize) -> Result<Permit, ConsensusError> {
        Permit::take(GroupId::Ring, group, node, bytes)
    }

    #[test]
    fn a_budget_is_full_at_its_limit_and_not_before() {
        let (group, node) = (Budget::new(100), Budget::new(150));
        let most = permit(&group, &node, 99).unwrap();
        let rest = permit(&group, &node, 1).unwrap();
        assert!(matches!(
            permit(&group, &node, 1),
            Err(ConsensusError::GroupThrottled {
                in_flight_bytes: 100,
                ..
            })
        ));
        let other = Budget::new(100);
        assert!(matches!(
            permit(&other, &node, 51),
            Err(ConsensusError::NodeThrottled {
                in_flight_bytes: 100,
                ..
            })
        ));
        assert_eq!(
            other.in_flight_bytes(),
            0,
            "a refusal by the node gives the group's share back"
        );
        let fits = permit(&other, &node, 50).unwrap();
        drop((most, rest, fits));
        assert_eq!(
            (group.in_flight_bytes(), node.in_flight_bytes(), other.in_flight_bytes()),
            (0, 0, 0)
        );
    }
}
