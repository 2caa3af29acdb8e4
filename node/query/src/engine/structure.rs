//! Structural operators inside one trace: linear in its spans, whatever the sets are.
//!
//! Relations follow the tree of [`super::tree`]. Roots count as siblings of each other; spans whose parent is not in the
//! trace are nobody's siblings, but what hangs below them is related as usual.

use super::tree::{NONE, Tree};
use crate::ast::{Flavour, Relation};

/// Positions that `lhs <op> rhs` gives, ascending. Both sides ascend.
pub(crate) fn relate(tree: &Tree, relation: Relation, flavour: Flavour, lhs: &[u32], rhs: &[u32]) -> Vec<u32> {
    let (in_lhs, in_rhs) = (marks(tree, lhs), marks(tree, rhs));
    let hit = related(tree, relation, &in_lhs);
    match flavour {
        Flavour::Plain => rhs.iter().copied().filter(|at| hit[*at as usize]).collect(),
        Flavour::Negated => rhs.iter().copied().filter(|at| !hit[*at as usize]).collect(),
        Flavour::Union => {
            let hit_back = related(tree, inverse(relation), &in_rhs);
            (0..tree.len() as u32)
                .filter(|at| {
                    let at = *at as usize;
                    (in_rhs[at] && hit[at]) || (in_lhs[at] && hit_back[at])
                })
                .collect()
        }
    }
}

fn inverse(relation: Relation) -> Relation {
    match relation {
        Relation::Child => Relation::Parent,
        Relation::Parent => Relation::Child,
        Relation::Descendant => Relation::Ancestor,
        Relation::Ancestor => Relation::Descendant,
        Relation::Sibling => Relation::Sibling,
    }
}

fn marks(tree: &Tree, positions: &[u32]) -> Vec<bool> {
    let mut marks = vec![false; tree.len()];
    positions.iter().for_each(|at| marks[*at as usize] = true);
    marks
}

/// By position: whether the span stands in `relation` to some span of `from`.
fn related(tree: &Tree, relation: Relation, from: &[bool]) -> Vec<bool> {
    let mut hit = vec![false; tree.len()];
    match relation {
        Relation::Child => {
            for (at, up) in tree.parent.iter().enumerate() {
                hit[at] = *up != NONE && from[*up as usize];
            }
        }
        Relation::Descendant => {
            // Parents come before children, so one pass carries the mark all the way down.
            for at in &tree.order {
                let up = tree.parent[*at as usize];
                hit[*at as usize] = up != NONE && (from[up as usize] || hit[up as usize]);
            }
        }
        Relation::Parent => {
            for (at, up) in tree.parent.iter().enumerate() {
                if *up != NONE && from[at] {
                    hit[*up as usize] = true;
                }
            }
        }
        Relation::Ancestor => {
            for at in tree.order.iter().rev() {
                let up = tree.parent[*at as usize];
                if up != NONE && (from[*at as usize] || hit[*at as usize]) {
                    hit[up as usize] = true;
                }
            }
        }
        Relation::Sibling => {
            // One count per parent; the last is for roots.
            let group = |at: usize| match tree.parent[at] {
                NONE if tree.is_root[at] => Some(tree.len()),
                NONE => None,
                up => Some(up as usize),
            };
            let mut counts = vec![0u32; tree.len() + 1];
            for at in (0..tree.len()).filter(|at| from[*at]) {
                if let Some(group) = group(at) {
                    counts[group] += 1;
                }
            }
            for (at, hit) in hit.iter_mut().enumerate() {
                *hit = group(at).is_some_and(|group| counts[group] > u32::from(from[at]));
            }
        }
    }
    hit
}
