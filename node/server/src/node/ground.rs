//! What a node stands on: the disk of its log, the wires to the others, and who writes the log.
//!
//! A process stands on its machine ([`Ground::machine`]); a simulation puts its nodes on ground of its own and takes it away.
//! The node id, the spool and the caches are files of the machine in both.

use std::sync::Arc;

use wal::{RealVfs, Vfs, Wal, WalError};

use crate::peer::wires::{Tcp, Wires};

/// See the module's documentation.
#[derive(Clone)]
pub struct Ground {
    /// Has the log and the snapshots.
    pub vfs: Arc<dyn Vfs>,
    /// To the other nodes.
    pub wires: Arc<dyn Wires>,
    /// Who writes the log. `None`: threads of its own, and a log that cannot be written ends the process.
    pub keeper: Option<Arc<dyn LogKeeper>>,
}

/// Writes a log that has no threads of its own.
pub trait LogKeeper: Send + Sync + 'static {
    /// The log is open: from now on [`Wal::drive`] is to be called.
    fn keep(&self, wal: Wal);
    /// The log cannot be written any more: the node must end now, before anybody is told otherwise.
    fn failed(&self, error: &WalError);
}

impl Ground {
    /// This machine.
    pub fn machine() -> Self {
        Self {
            vfs: Arc::new(RealVfs),
            wires: Arc::new(Tcp),
            keeper: None,
        }
    }
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground")
            .field("has_keeper", &self.keeper.is_some())
            .finish_non_exhaustive()
    }
}
