//! What is told to members outside any operation.
//!
//! Who joins, follows, votes and leads is the nodes' own affair: an empty node asks to be let in, the ring's leader lets it
//! follow, gives it a vote when it has kept up, and gives its shards (`server::node::members`). The operator only says who
//! is to hand over, and takes that back.

use super::{Act, Sight};
use crate::admin::{Command, Drain, MemberState};

/// A node that hands over although no operation asks it to: one that has been restarted, a command that came late, or an
/// operation that was given up.
pub(super) fn stray_drain(sight: &Sight<'_>) -> Option<Act> {
    let ring = sight.ring()?;
    ring.members.iter().find_map(|member| {
        let undrain = |pod: &str| Act::Tell {
            pod: pod.to_owned(),
            command: Command::Undrain { member: member.raft_id },
        };
        if member.state == MemberState::Leaving {
            return sight.leader().map(undrain);
        }
        let node = sight.node(&member.pod).filter(|node| node.is(member.raft_id))?;
        (node.drain != Drain::None && member.state != MemberState::Lost).then(|| undrain(&member.pod))
    })
}
