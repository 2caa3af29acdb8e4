//! The tree of one trace, over the positions 0.. of its rows.
//!
//! Taken from the chunk where it stands in depth-first order, built from ids otherwise; both by the rule of
//! [`crate::source::Preorder`]. Safe for every input: orphans, cycles, ids that occur twice.
//!
//! What always holds: `order` lists every position once, parents before children, the subtree of `order[i]` being
//! `order[i + 1 ..= i + below[i]]`.

use std::collections::HashMap;

/// Stands for "no position".
pub(crate) const NONE: u32 = u32::MAX;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// By position: position of the parent, [`NONE`] for roots and orphans.
    pub(crate) parent: Vec<u32>,
    /// Positions in depth-first order.
    pub(crate) order: Vec<u32>,
    /// By place in `order`: how many follow that are below.
    pub(crate) below: Vec<u32>,
    /// By position: whether the span names no parent.
    pub(crate) is_root: Vec<bool>,
    /// `(left, right)` by position: one count through the whole trace, up on the way in and on the way out.
    pub(crate) nested_set: Vec<(i64, i64)>,
    /// Number of direct children by position.
    pub(crate) child_counts: Vec<u32>,
}

/// What a tree is built from, per position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) start: u64,
    pub(crate) id: [u8; 8],
    /// All zero for roots.
    pub(crate) parent_id: [u8; 8],
}

impl Tree {
    /// The tree of rows that stand in depth-first order.
    pub(crate) fn from_preorder(descendants: &[u32], parent_distance: &[u32], is_root: Vec<bool>) -> Tree {
        let n = descendants.len();
        let parent = parent_distance
            .iter()
            .enumerate()
            .map(|(at, distance)| match *distance {
                0 => NONE,
                distance => (at as u32).checked_sub(distance).unwrap_or(NONE),
            })
            .collect();
        let below = descendants
            .iter()
            .enumerate()
            .map(|(at, d)| (*d).min((n - at - 1) as u32))
            .collect();
        Tree::numbered(parent, (0..n as u32).collect(), below, is_root)
    }

    /// The tree of spans in any order.
    pub(crate) fn build(nodes: &[Node]) -> Tree {
        let n = nodes.len();
        let mut sorted: Vec<u32> = (0..n as u32).collect();
        sorted.sort_unstable_by_key(|at| (nodes[*at as usize].start, nodes[*at as usize].id, *at));
        let mut by_id: HashMap<[u8; 8], u32> = HashMap::with_capacity(n);
        for at in &sorted {
            by_id.entry(nodes[*at as usize].id).or_insert(*at);
        }
        let is_root: Vec<bool> = nodes.iter().map(|node| node.parent_id == [0; 8]).collect();
        let mut parent: Vec<u32> = nodes
            .iter()
            .enumerate()
            .map(|(at, node)| match by_id.get(&node.parent_id) {
                Some(found) if !is_root[at] && *found != at as u32 => *found,
                _ => NONE,
            })
            .collect();
        open_circles(&sorted, &mut parent);
        // Children of each parent, in order: threaded lists, filled from the back.
        let mut first_child = vec![NONE; n];
        let mut next_sibling = vec![NONE; n];
        for at in sorted.iter().rev() {
            let up = parent[*at as usize];
            if up != NONE {
                next_sibling[*at as usize] = first_child[up as usize];
                first_child[up as usize] = *at;
            }
        }
        let mut order = Vec::with_capacity(n);
        let mut place = vec![NONE; n];
        let mut stack = Vec::new();
        for top in sorted.iter().filter(|at| parent[**at as usize] == NONE) {
            stack.push(*top);
            while let Some(at) = stack.pop() {
                place[at as usize] = order.len() as u32;
                order.push(at);
                let from = stack.len();
                let mut child = first_child[at as usize];
                while child != NONE {
                    stack.push(child);
                    child = next_sibling[child as usize];
                }
                stack[from..].reverse();
            }
        }
        let mut below = vec![0u32; n];
        for i in (0..n).rev() {
            let up = parent[order[i] as usize];
            if up != NONE {
                below[place[up as usize] as usize] += below[i] + 1;
            }
        }
        Tree::numbered(parent, order, below, is_root)
    }

    fn numbered(parent: Vec<u32>, order: Vec<u32>, below: Vec<u32>, is_root: Vec<bool>) -> Tree {
        let mut nested_set = vec![(0, 0); parent.len()];
        let mut child_counts = vec![0; parent.len()];
        let mut depth = vec![0i64; parent.len()];
        for (i, at) in order.iter().enumerate() {
            let at = *at as usize;
            let up = parent[at];
            if up != NONE {
                depth[at] = depth[up as usize] + 1;
                child_counts[up as usize] += 1;
            }
            // Before it, i spans were entered and all but its ancestors left again.
            let left = 2 * i as i64 - depth[at] + 1;
            nested_set[at] = (left, left + 2 * i64::from(below[i]) + 1);
        }
        Tree {
            parent,
            order,
            below,
            is_root,
            nested_set,
            child_counts,
        }
    }

    /// Number of spans.
    pub(crate) fn len(&self) -> usize {
        self.parent.len()
    }
}

/// Cuts the parent link of the earliest span of every circle, as the block writer does: it then is an orphan like any other,
/// and what hung from the circle goes on hanging.
fn open_circles(sorted: &[u32], parent: &mut [u32]) {
    let mut rank = vec![0; sorted.len()];
    for (place, at) in (0u32..).zip(sorted) {
        rank[*at as usize] = place;
    }
    let mut walked_for = vec![NONE; sorted.len()];
    for from in 0..sorted.len() as u32 {
        let mut at = from;
        while at != NONE && walked_for[at as usize] == NONE {
            walked_for[at as usize] = from;
            at = parent[at as usize];
        }
        // Back at a span of this very walk: from there on it is a circle.
        if at == NONE || walked_for[at as usize] != from {
            continue;
        }
        let (entry, mut top) = (at, at);
        loop {
            at = parent[at as usize];
            if at == entry {
                break;
            }
            if rank[at as usize] < rank[top as usize] {
                top = at;
            }
        }
        parent[top as usize] = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(start: u64, id: u8, parent: u8) -> Node {
        Node {
            start,
            id: [id; 8],
            parent_id: [parent; 8],
        }
    }

    #[test]
    fn a_tree_is_numbered_depth_first() {
        // 1 ─┬─ 2 ── 4
        //    └─ 3
        let tree = Tree::build(&[node(3, 3, 1), node(4, 4, 2), node(1, 1, 0), node(2, 2, 1)]);
        assert_eq!(tree.order, [2, 3, 1, 0]);
        assert_eq!(tree.below, [3, 1, 0, 0]);
        assert_eq!(tree.nested_set, [(6, 7), (3, 4), (1, 8), (2, 5)]);
        assert_eq!(tree.child_counts, [0, 0, 2, 1]);
    }

    #[test]
    fn a_circle_is_opened_at_its_own_earliest_span() {
        // 1 and 2 name each other; 3, older than both, hangs from 2.
        let tree = Tree::build(&[node(20, 1, 2), node(30, 2, 1), node(5, 3, 2)]);
        assert_eq!(tree.parent, [NONE, 0, 1]);
        assert_eq!((tree.order, tree.below), (vec![0, 1, 2], vec![2, 1, 0]));
        // Two circles and a root between them.
        let nodes = [
            node(50, 1, 2),
            node(51, 2, 1),
            node(10, 3, 4),
            node(11, 4, 3),
            node(30, 9, 0),
        ];
        assert_eq!(Tree::build(&nodes).order, [2, 3, 4, 0, 1]);
    }

    #[test]
    fn orphans_cycles_and_double_ids_are_safe() {
        // 1 hangs on an absent 9; 2 and 3 name each other; 4 names itself; 5 occurs twice and 6 hangs on the earlier one.
        let nodes = [
            node(1, 1, 9),
            node(2, 2, 3),
            node(3, 3, 2),
            node(4, 4, 4),
            node(5, 5, 0),
            node(6, 5, 1),
            node(7, 6, 5),
        ];
        let tree = Tree::build(&nodes);
        assert_eq!(tree.parent, [NONE, NONE, 1, NONE, NONE, 0, 4]);
        assert_eq!(tree.order, [0, 5, 1, 2, 3, 4, 6]);
        assert_eq!(tree.is_root, [false, false, false, false, true, false, false]);
        let preorder = |at: usize| nodes[tree.order[at] as usize];
        let again = Tree::build(&(0..nodes.len()).map(preorder).collect::<Vec<_>>());
        assert_eq!(again.order, (0..7).collect::<Vec<_>>());
        assert_eq!(again.below, tree.below);
    }
}
