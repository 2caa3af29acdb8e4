//! Planted bugs: how the simulation proves that it would find a real one.
//!
//! Each is one condition at the place where a real mistake would be made: `if plants::is(Plant::…)`. Without the feature `on`
//! the answer is the constant `false` and the compiler removes the place; with it, a plant is still off until the process
//! selects it, so that a build with the feature behaves like any other until told otherwise. At most one is ever selected.
//!
//! Knows nobody, so that everybody may ask. Not here: what finds them (`node/sim`).

macro_rules! plants {
    ($($(#[doc = $what:literal])+ $name:ident = $text:literal,)+) => {
        /// A mistake that somebody could have made.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Plant {
            $($(#[doc = $what])+ $name,)+
        }

        impl Plant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

plants! {
    /// The log says that a record is durable before it is synced.
    AckBeforeSync = "ack-before-sync",
    /// The catalog takes a block whose range does not begin at the watermark.
    SkipContiguity = "skip-contiguity",
    /// A question takes the live tails first and the catalog afterwards.
    LiveBeforeCatalog = "live-before-catalog",
    /// A disk that comes back empty is the node that it was.
    ReusedNodeId = "reused-node-id",
    /// The log forgets what is built, not what the catalog names.
    PurgeBeforeCatalog = "purge-before-catalog",
    /// The set of known batches is not read back from a snapshot.
    DedupNotRestored = "dedup-not-restored",
    /// A new leader begins with an empty set of known batches.
    DedupLostOnLead = "dedup-lost-on-lead",
    /// A flush whose block the catalog did not take counts as done.
    FlushUnconfirmed = "flush-unconfirmed",
    /// A generation goes on taking batches behind its seal.
    TakesAfterSeal = "takes-after-seal",
    /// A generation is forgotten as soon as there is a newer one, whether or not blocks have all of it.
    ForgetSealed = "forget-sealed",
    /// Merged blocks come in, those they were made of stay.
    MergeKeepsOld = "merge-keeps-old",
}

#[cfg(feature = "on")]
mod selection {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Plant;

    /// Place of the selected plant plus one.
    static SELECTED: AtomicUsize = AtomicUsize::new(0);

    /// Switches this mistake on, for the whole process.
    pub fn select(plant: Plant) {
        SELECTED.store(plant as usize + 1, Ordering::SeqCst);
    }

    pub(super) fn is(plant: Plant) -> bool {
        SELECTED.load(Ordering::Relaxed) == plant as usize + 1
    }
}

#[cfg(feature = "on")]
pub use selection::select;

/// Whether this mistake is to be made.
#[cfg(feature = "on")]
#[inline]
pub fn is(plant: Plant) -> bool {
    selection::is(plant)
}

/// Whether this mistake is to be made: never.
#[cfg(not(feature = "on"))]
#[inline(always)]
pub const fn is(_: Plant) -> bool {
    false
}
