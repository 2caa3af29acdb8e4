//! What one node asks of another beyond Raft, and the answers; as bytes.
//!
//! Every message opens with a format byte and a kind byte; numbers are little-endian, texts have a 16-bit length in front.
//! Like all that comes over the wire it is decoded completely or refused.
//!
//! Not here: what answering does (`crate::node`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use model::{Generation, LogIndex, NodeId, ShardId, TenantId, TraceId};
use query::source::TimeRange;
use shard::catalog::GroupKey;

use crate::querier::{Places, Stats, TraceAnswer, TraceQuestion};
use crate::refusal::{Kind, Refusal};

const FORMAT: u8 = 1;

/// What is asked. The asker is known from its connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// To the ring's leader: the asker wants to be a member; also said after each start, since addresses change.
    Join {
        /// What people call it.
        name: Arc<str>,
        zone: Arc<str>,
        /// Where peers reach it.
        address: Arc<str>,
        feature_level: u32,
    },
    /// To the ring's leader: propose this command.
    Propose(Bytes),
    /// To the ring's leader: how far must the ring be applied to show all that was agreed before this question?
    RingIndex,
    /// To the leader of the trace's shard: all that is known of one tenant's trace. Which spans are picked stays with the asker.
    Trace(TraceQuestion),
    /// To the leader of a generation: committed entries above `after`, for an answer that needs its live spans. The first
    /// time without `upto`: then a majority confirms how far the log goes.
    Tail {
        group: GroupKey,
        after: LogIndex,
        upto: Option<LogIndex>,
    },
    /// To any member: which copies of shards are not complete, as far as it knows.
    Behind,
    /// To the leader of a generation: make this sub-batch durable.
    Store { group: GroupKey, frame: Bytes },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Done: the asker is a member, the sub-batch is committed.
    Done,
    /// The command is committed at this position, and what it did is found by applying it; or the position asked for.
    At(LogIndex),
    /// A trace, and what could not be read of it.
    Trace(TraceAnswer),
    /// Committed entries, how far they reach, and how far the log goes.
    Tail {
        entries: Vec<TailEntry>,
        reached: LogIndex,
        upto: LogIndex,
    },
    /// How many copies of shards are not complete, by node.
    Behind(Vec<(NodeId, u32)>),
    /// Somebody else leads, perhaps `leader`, who may live at `address`.
    NotLeader {
        leader: Option<NodeId>,
        address: Option<Arc<str>>,
    },
    /// The generation takes nothing more; ask the current one. `epoch` is that of the shard map that says so.
    Sealed { epoch: u64 },
    /// No, and why.
    Refused(Refusal),
}

/// One entry of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailEntry {
    pub index: LogIndex,
    /// Positions of sub-batches in it that had been stored before.
    pub repeats: Vec<u32>,
    /// As it stands in the log.
    pub command: Bytes,
}

/// Bytes that are no message, or one of a newer program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message between nodes is malformed or of a newer program")]
pub struct Malformed;

impl Question {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        match self {
            Self::Join {
                name,
                zone,
                address,
                feature_level,
            } => {
                out.put_u8(1);
                put_text(&mut out, name);
                put_text(&mut out, zone);
                put_text(&mut out, address);
                out.put_u32_le(*feature_level);
            }
            Self::Propose(command) => {
                out.put_u8(2);
                out.put_slice(command);
            }
            Self::RingIndex => out.put_u8(4),
            Self::Behind => out.put_u8(7),
            Self::Trace(question) => {
                out.put_u8(5);
                let tenants = &question.tenants;
                out.put_u16_le(u16::try_from(tenants.len()).unwrap_or(u16::MAX));
                for tenant in tenants.iter().take(usize::from(u16::MAX)) {
                    put_text(&mut out, tenant.as_str());
                }
                out.put_slice(&question.trace_id.0);
                let window = question.window.unwrap_or(TimeRange::ALWAYS);
                out.put_u8(u8::from(question.window.is_some()));
                out.put_u64_le(window.start_unix_nanos);
                out.put_u64_le(window.end_unix_nanos);
                out.put_u8(match question.places {
                    Places::All => 0,
                    Places::Recent => 1,
                    Places::Blocks => 2,
                });
                out.put_u64_le(question.bytes_max);
            }
            Self::Tail { group, after, upto } => {
                out.put_u8(6);
                put_group(&mut out, *group);
                out.put_u64_le(after.0);
                out.put_u64_le(upto.map_or(0, |upto| upto.0));
            }
            Self::Store { group, frame } => {
                out.reserve(frame.len() + 16);
                out.put_u8(3);
                put_group(&mut out, *group);
                out.put_slice(frame);
            }
        }
        out.freeze()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(bytes)?;
        let question = match reader.u8()? {
            1 => Self::Join {
                name: reader.text()?,
                zone: reader.text()?,
                address: reader.text()?,
                feature_level: reader.u32()?,
            },
            2 => Self::Propose(reader.rest()),
            3 => Self::Store {
                group: reader.group()?,
                frame: reader.rest(),
            },
            4 => Self::RingIndex,
            7 => Self::Behind,
            5 => Self::Trace(reader.trace_question()?),
            6 => Self::Tail {
                group: reader.group()?,
                after: LogIndex(reader.u64()?),
                upto: Some(LogIndex(reader.u64()?)).filter(|upto| upto.0 != 0),
            },
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok(question)
    }
}

impl Reply {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        match self {
            Self::Done => out.put_u8(1),
            Self::At(index) => {
                out.put_u8(2);
                out.put_u64_le(index.0);
            }
            Self::Trace(answer) => {
                out.put_u8(6);
                out.put_u8(u8::from(answer.is_cut));
                out.put_u64_le(answer.stats.inspected_bytes);
                out.put_u64_le(answer.stats.backend_reads);
                out.put_u16_le(u16::try_from(answer.missing.len()).unwrap_or(u16::MAX));
                for missing in answer.missing.iter().take(usize::from(u16::MAX)) {
                    put_text(&mut out, missing);
                }
                out.put_slice(&answer.trace);
            }
            Self::Tail { entries, reached, upto } => {
                out.reserve(entries.iter().map(|entry| entry.command.len() + 64).sum());
                out.put_u8(7);
                out.put_u64_le(reached.0);
                out.put_u64_le(upto.0);
                out.put_u32_le(u32::try_from(entries.len()).unwrap_or(u32::MAX));
                for entry in entries {
                    out.put_u64_le(entry.index.0);
                    out.put_u32_le(u32::try_from(entry.repeats.len()).unwrap_or(u32::MAX));
                    entry.repeats.iter().for_each(|position| out.put_u32_le(*position));
                    out.put_u32_le(u32::try_from(entry.command.len()).unwrap_or(u32::MAX));
                    out.put_slice(&entry.command);
                }
            }
            Self::Behind(behind) => {
                out.put_u8(8);
                out.put_u32_le(u32::try_from(behind.len()).unwrap_or(u32::MAX));
                for (node, count) in behind {
                    out.put_u64_le(node.0);
                    out.put_u32_le(*count);
                }
            }
            Self::NotLeader { leader, address } => {
                out.put_u8(3);
                out.put_u64_le(leader.map_or(0, |leader| leader.0));
                put_text(&mut out, address.as_deref().unwrap_or_default());
            }
            Self::Sealed { epoch } => {
                out.put_u8(4);
                out.put_u64_le(*epoch);
            }
            Self::Refused(refusal) => {
                out.put_u8(5);
                put_text(&mut out, refusal.kind.label());
                let wait = refusal.retry_after.unwrap_or_default().as_millis();
                out.put_u32_le(u32::try_from(wait).unwrap_or(u32::MAX));
                put_text(&mut out, &refusal.message);
            }
        }
        out.freeze()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(bytes)?;
        let reply = match reader.u8()? {
            1 => Self::Done,
            2 => Self::At(LogIndex(reader.u64()?)),
            3 => {
                let leader = NodeId(reader.u64()?);
                let address = reader.text()?;
                Self::NotLeader {
                    leader: (leader.0 != 0).then_some(leader),
                    address: (!address.is_empty()).then_some(address),
                }
            }
            4 => Self::Sealed { epoch: reader.u64()? },
            6 => {
                let is_cut = reader.u8()? != 0;
                let inspected_bytes = reader.u64()?;
                let backend_reads = reader.u64()?;
                let count = reader.u16()?;
                let missing = (0..count).map(|_| Ok(reader.text()?.to_string()));
                Self::Trace(TraceAnswer {
                    is_cut,
                    is_picked: false,
                    stats: Stats {
                        inspected_bytes,
                        backend_bytes: inspected_bytes,
                        backend_reads,
                        ..Stats::default()
                    },
                    missing: missing.collect::<Result<_, Malformed>>()?,
                    trace: reader.rest(),
                })
            }
            7 => {
                let (reached, upto) = (LogIndex(reader.u64()?), LogIndex(reader.u64()?));
                let count = reader.u32()?;
                let entries = (0..count).map(|_| reader.tail_entry());
                Self::Tail {
                    entries: entries.collect::<Result<_, Malformed>>()?,
                    reached,
                    upto,
                }
            }
            8 => {
                let count = reader.u32()?;
                let behind = (0..count).map(|_| Ok((NodeId(reader.u64()?), reader.u32()?)));
                Self::Behind(behind.collect::<Result<_, Malformed>>()?)
            }
            5 => {
                let kind = Kind::from_label(&reader.text()?).ok_or(Malformed)?;
                let wait = Duration::from_millis(u64::from(reader.u32()?));
                Self::Refused(Refusal {
                    kind,
                    retry_after: (!wait.is_zero()).then_some(wait),
                    message: reader.text()?.to_string().into(),
                })
            }
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok(reply)
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    let mut length = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    // At most u16::MAX.
    out.put_u16_le(length as u16);
    out.put_slice(&text.as_bytes()[..length]);
}

fn put_group(out: &mut BytesMut, group: GroupKey) {
    out.put_u32_le(group.shard.0);
    out.put_u64_le(group.generation.0);
}

struct Reader(Bytes);

impl Reader {
    fn open(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Self(bytes);
        match reader.u8()? {
            FORMAT => Ok(reader),
            _ => Err(Malformed),
        }
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.0.try_get_u16_le().map_err(|_| Malformed)
    }

    fn trace_question(&mut self) -> Result<TraceQuestion, Malformed> {
        let count = self.u16()?;
        let tenants = (0..count).map(|_| TenantId::new(&self.text()?).map_err(|_| Malformed));
        let tenants = tenants.collect::<Result<Vec<_>, _>>()?;
        let mut id = [0; 16];
        self.0.try_copy_to_slice(&mut id).map_err(|_| Malformed)?;
        let has_window = self.u8()? != 0;
        let window = TimeRange {
            start_unix_nanos: self.u64()?,
            end_unix_nanos: self.u64()?,
        };
        Ok(TraceQuestion {
            tenants: tenants.into(),
            trace_id: TraceId(id),
            window: has_window.then_some(window),
            places: match self.u8()? {
                0 => Places::All,
                1 => Places::Recent,
                2 => Places::Blocks,
                _ => return Err(Malformed),
            },
            bytes_max: self.u64()?,
            pick: None,
        })
    }

    fn tail_entry(&mut self) -> Result<TailEntry, Malformed> {
        let index = LogIndex(self.u64()?);
        let count = self.u32()?;
        let repeats = (0..count).map(|_| self.u32());
        let repeats = repeats.collect::<Result<_, Malformed>>()?;
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > self.0.len() {
            return Err(Malformed);
        }
        Ok(TailEntry {
            index,
            repeats,
            command: self.0.split_to(length),
        })
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32_le().map_err(|_| Malformed)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64_le().map_err(|_| Malformed)
    }

    fn text(&mut self) -> Result<Arc<str>, Malformed> {
        let length = usize::from(self.0.try_get_u16_le().map_err(|_| Malformed)?);
        if length > self.0.len() {
            return Err(Malformed);
        }
        let text = self.0.split_to(length);
        std::str::from_utf8(&text).map(Arc::from).map_err(|_| Malformed)
    }

    fn group(&mut self) -> Result<GroupKey, Malformed> {
        Ok(GroupKey {
            shard: ShardId(self.u32()?),
            generation: Generation(self.u64()?),
        })
    }

    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> Vec<Question> {
        vec![
            Question::Join {
                name: "node-0".into(),
                zone: "a".into(),
                address: "node-0.peers:7946".into(),
                feature_level: 2,
            },
            Question::Propose(Bytes::from_static(b"command")),
            Question::RingIndex,
            Question::Behind,
            Question::Trace(TraceQuestion {
                tenants: [TenantId::single()].into(),
                trace_id: TraceId([7; 16]),
                window: None,
                places: Places::Recent,
                bytes_max: 9,
                pick: None,
            }),
            Question::Tail {
                group: GroupKey {
                    shard: ShardId(5),
                    generation: Generation(6),
                },
                after: LogIndex(7),
                upto: None,
            },
            Question::Store {
                group: GroupKey {
                    shard: ShardId(3),
                    generation: Generation(4),
                },
                frame: Bytes::from_static(b"frame"),
            },
        ]
    }

    fn replies() -> Vec<Reply> {
        let mut replies = vec![
            Reply::Done,
            Reply::At(LogIndex(9)),
            Reply::NotLeader {
                leader: Some(NodeId(5)),
                address: Some("node-5:1".into()),
            },
            Reply::NotLeader {
                leader: None,
                address: None,
            },
            Reply::Sealed { epoch: 8 },
            Reply::Behind(vec![(NodeId(3), 2)]),
            Reply::Tail {
                entries: vec![TailEntry {
                    index: LogIndex(3),
                    repeats: vec![0, 2],
                    command: Bytes::from_static(b"entry"),
                }],
                reached: LogIndex(3),
                upto: LogIndex(4),
            },
        ];
        // Its last part has no length of its own, so cutting it is not noticed here but by the transport.
        let answer = TraceAnswer {
            is_cut: true,
            missing: vec!["a shard".to_owned()],
            ..TraceAnswer::default()
        };
        replies.push(Reply::Trace(answer));
        replies.extend(Kind::ALL.map(|kind| Reply::Refused(Refusal::new(kind, "because"))));
        replies
    }

    #[test]
    fn messages_come_back() {
        for question in questions() {
            assert_eq!(Question::decode(question.encode()), Ok(question));
        }
        for reply in replies() {
            assert_eq!(Reply::decode(reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn a_message_that_is_cut_or_of_another_format_is_refused() {
        for whole in replies().iter().map(Reply::encode) {
            for length in 0..whole.len() {
                assert_eq!(Reply::decode(whole.slice(..length)), Err(Malformed));
            }
        }
        let mut newer = questions()[0].encode().to_vec();
        newer[0] = FORMAT + 1;
        assert_eq!(Question::decode(newer.into()), Err(Malformed));
        let mut longer = questions()[0].encode().to_vec();
        longer.push(0);
        assert_eq!(Question::decode(longer.into()), Err(Malformed));
    }
}
