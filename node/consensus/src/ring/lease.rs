//! Leases: at most one node does a job at a time, and an old holder can be told from the new one.
//!
//! Expiry goes by ring time, so it may be early or late; that is why every lease has a fence number. Work that must not be
//! done by an old holder carries its fence in a [`super::Guard`].

use std::collections::BTreeMap;
use std::sync::Arc;

use model::NodeId;

/// Most leases at once.
pub const LEASES_MAX: usize = 1_024;
/// Longest name.
pub(super) const NAME_BYTES_MAX: usize = 200;
/// Longest a lease is given for at once. A holder renews; a dead one must not block a job for longer.
pub(super) const DURATION_NANOS_MAX: u64 = 600 * 1_000_000_000;

/// What a lease is for, for example `compaction/<tenant>`.
pub type LeaseName = Arc<str>;

/// Who does a job, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Who.
    pub holder: NodeId,
    /// Greater than any fence given before, for any job.
    pub fence: u64,
    /// Ring time.
    pub expires_unix_nanos: u64,
}

/// All leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    pub(crate) last_fence: u64,
    pub(crate) by_name: BTreeMap<LeaseName, Lease>,
}

impl Leases {
    /// The lease of this name, expired or not.
    pub fn get(&self, name: &str) -> Option<&Lease> {
        self.by_name.get(name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&LeaseName, &Lease)> {
        self.by_name.iter()
    }

    /// Gives or renews a lease; `None` if somebody else has it, or if it cannot be given at all.
    pub(crate) fn acquire(&mut self, name: LeaseName, holder: NodeId, duration: u64, now: u64) -> Option<Lease> {
        let held = self.by_name.get(&name).filter(|lease| lease.expires_unix_nanos > now);
        let fence = match held {
            Some(lease) if lease.holder != holder => return None,
            Some(lease) => lease.fence,
            None => {
                self.by_name.retain(|_, lease| lease.expires_unix_nanos > now);
                if self.by_name.len() >= LEASES_MAX || name.is_empty() || name.len() > NAME_BYTES_MAX {
                    return None;
                }
                self.last_fence += 1;
                self.last_fence
            }
        };
        let expires_unix_nanos = now.saturating_add(duration.min(DURATION_NANOS_MAX));
        let lease = Lease {
            holder,
            fence,
            expires_unix_nanos,
        };
        self.by_name.insert(name, lease);
        Some(lease)
    }

    /// Gives a lease back; says whether it was held with this fence.
    pub(crate) fn release(&mut self, name: &str, holder: NodeId, fence: u64) -> bool {
        let is_held = self.is_held(name, holder, fence);
        if is_held {
            self.by_name.remove(name);
        }
        is_held
    }

    /// Whether this holder's lease has not passed on. It may have expired: nobody else has taken it, so no harm is done.
    pub(crate) fn is_held(&self, name: &str, holder: NodeId, fence: u64) -> bool {
        self.by_name
            .get(name)
            .is_some_and(|lease| lease.holder == holder && lease.fence == fence)
    }
}
