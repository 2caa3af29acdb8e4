//! Where nodes live, as far as this one knows.
//!
//! Two sources: what the ring records, and what a peer said of itself when it called. The later word counts: a node that
//! moved calls before the ring has agreed on its new address.

use std::collections::HashMap;
use std::sync::Arc;

use model::NodeId;
use parking_lot::RwLock;

/// As many nodes as a ring may have, and as many that were there before.
const ENTRIES_MAX: usize = 2_000;

#[derive(Debug, Default)]
struct Entry {
    address: Arc<str>,
    /// What the ring said last; only a change of it counts as a new word.
    recorded: Option<Arc<str>>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct AddressBook {
    entries: RwLock<HashMap<NodeId, Entry>>,
}

impl AddressBook {
    /// Where the node is.
    pub fn address_of(&self, node: NodeId) -> Option<Arc<str>> {
        self.entries.read().get(&node).map(|entry| Arc::clone(&entry.address))
    }

    /// The ring records that it is there.
    pub fn record(&self, node: NodeId, address: &Arc<str>) {
        let is_known = |entries: &HashMap<NodeId, Entry>| {
            entries
                .get(&node)
                .is_some_and(|entry| entry.recorded.as_ref() == Some(address))
        };
        if is_known(&self.entries.read()) {
            return;
        }
        let entry = Entry {
            address: Arc::clone(address),
            recorded: Some(Arc::clone(address)),
        };
        self.insert(node, entry);
    }

    /// It says itself that it is there.
    pub fn hear(&self, node: NodeId, address: &Arc<str>) {
        if address.is_empty() || self.address_of(node).as_ref() == Some(address) {
            return;
        }
        let recorded = self.entries.read().get(&node).and_then(|entry| entry.recorded.clone());
        let entry = Entry {
            address: Arc::clone(address),
            recorded,
        };
        self.insert(node, entry);
    }

    fn insert(&self, node: NodeId, entry: Entry) {
        let mut entries = self.entries.write();
        if entries.len() < ENTRIES_MAX || entries.contains_key(&node) {
            entries.insert(node, entry);
        }
    }

    /// Forgets nodes that the ring has let go.
    pub fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        self.entries
            .write()
            .retain(|node, entry| entry.recorded.is_none() || keep(*node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_word_counts() {
        let (book, node) = (AddressBook::default(), NodeId(1));
        let [a, b, c]: [Arc<str>; 3] = ["a:1".into(), "b:1".into(), "c:1".into()];
        book.record(node, &a);
        book.hear(node, &b);
        assert_eq!(book.address_of(node), Some(b.clone()));
        // The ring repeats what it said before.
        book.record(node, &a);
        assert_eq!(book.address_of(node), Some(b));
        book.record(node, &c);
        assert_eq!(book.address_of(node), Some(c));
        book.retain(|_| false);
        assert_eq!(book.address_of(node), None);
    }

    #[test]
    fn strangers_do_not_fill_the_book() {
        let (book, address) = (AddressBook::default(), Arc::from("a:1"));
        for node in 1..=ENTRIES_MAX as u64 + 1 {
            book.hear(NodeId(node), &address);
        }
        assert!(book.address_of(NodeId(ENTRIES_MAX as u64)).is_some());
        assert!(book.address_of(NodeId(ENTRIES_MAX as u64 + 1)).is_none());
    }
}
