//! The first bytes of every connection between nodes: who calls, whom, and of which cluster.
//!
//! ```text
//! caller    "VIVP" version:u8 lane:u8 cluster:u128 from:u64 to:u64 feature_level:u32 address: length u16, text
//! answerer  "VIVP" version:u8 verdict:u8 cluster:u128 node:u64 feature_level:u32
//! ```
//! All numbers little-endian. HTTP/2 begins after a verdict of 0; any other verdict is the last byte of the connection.
//!
//! What always holds: nothing else is read from a caller whose cluster is another one, who means another node (a disk
//! that came back empty behind the same address is one), or who is too old for what the cluster has switched on. Reading
//! takes at most [`HELLO_BYTES_MAX`] bytes.
//!
//! Not here: certificates ([`super::tls`]); who is a member (the ring: a member may know more of it than we do).

use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use model::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const MAGIC: [u8; 4] = *b"VIVP";
const VERSION: u8 = 1;
const ADDRESS_BYTES_MAX: usize = 320;
const HEAD_BYTES: usize = 4 + 1 + 1 + 16 + 8 + 8 + 4 + 2;
const ANSWER_BYTES: usize = 4 + 1 + 1 + 16 + 8 + 4;
/// Longest hello.
pub(super) const HELLO_BYTES_MAX: usize = HEAD_BYTES + ADDRESS_BYTES_MAX;

/// What a connection is for. Control is kept apart so that no large message is in front of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Votes, heartbeats, transfers.
    Control,
    /// Everything else.
    Data,
}

/// What a caller says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub kind: ConnectionKind,
    /// 0: an empty disk that looks for a cluster.
    pub cluster: u128,
    pub from: NodeId,
    /// 0: whoever answers.
    pub to: NodeId,
    /// The newest feature level the caller's program understands.
    pub feature_level: u32,
    /// Where the caller can be reached.
    pub address: Arc<str>,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answerer {
    /// 0: an empty disk.
    pub cluster: u128,
    pub node: NodeId,
    /// What the cluster has switched on.
    pub feature_level: u32,
}

/// Why a connection was closed before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloRefusal {
    /// It belongs to another cluster; never try again.
    #[error("it belongs to cluster {cluster:032x}")]
    OtherCluster { cluster: u128 },
    /// Another node has this address now.
    #[error("node {node} lives there now")]
    OtherNode { node: NodeId },
    /// The caller's program is older than what the cluster has switched on.
    #[error("the cluster has switched on feature level {level}, which this program does not know")]
    TooOld { level: u32 },
    /// Not our protocol, or a version of it that is not spoken.
    #[error("it does not speak this protocol")]
    NotUnderstood,
    /// It has not joined any cluster yet.
    #[error("it has not joined a cluster yet")]
    NotJoined,
}

impl HelloRefusal {
    fn code(self) -> u8 {
        match self {
            Self::OtherCluster { .. } => 1,
            Self::OtherNode { .. } => 2,
            Self::TooOld { .. } => 3,
            Self::NotUnderstood => 4,
            Self::NotJoined => 5,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("connection broke")]
    Io(#[from] io::Error),
    /// The one who answers refused us, or we him.
    #[error("refused: {0}")]
    Refused(#[from] HelloRefusal),
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HELLO_BYTES_MAX);
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(match self.kind {
            ConnectionKind::Control => 1,
            ConnectionKind::Data => 2,
        });
        out.put_u128_le(self.cluster);
        out.put_u64_le(self.from.0);
        out.put_u64_le(self.to.0);
        out.put_u32_le(self.feature_level);
        let address = &self.address.as_bytes()[..self.address.len().min(ADDRESS_BYTES_MAX)];
        // At most ADDRESS_BYTES_MAX.
        out.put_u16_le(address.len() as u16);
        out.put_slice(address);
        out
    }

    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, HelloError> {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await?;
        let mut rest = &head[..];
        if rest[..4] != MAGIC || rest[4] != VERSION {
            return Err(HelloRefusal::NotUnderstood.into());
        }
        rest.advance(5);
        let kind = match rest.get_u8() {
            1 => ConnectionKind::Control,
            2 => ConnectionKind::Data,
            _ => return Err(HelloRefusal::NotUnderstood.into()),
        };
        let cluster = rest.get_u128_le();
        let (from, to) = (NodeId(rest.get_u64_le()), NodeId(rest.get_u64_le()));
        let feature_level = rest.get_u32_le();
        let length = usize::from(rest.get_u16_le());
        if length > ADDRESS_BYTES_MAX || from.0 == 0 {
            return Err(HelloRefusal::NotUnderstood.into());
        }
        let mut address = vec![0; length];
        stream.read_exact(&mut address).await?;
        let address = String::from_utf8(address).map_err(|_| HelloRefusal::NotUnderstood)?;
        Ok(Self {
            kind,
            cluster,
            from,
            to,
            feature_level,
            address: address.into(),
        })
    }
}

/// Whether `us` takes a call; pure.
pub(super) fn judge(hello: &Hello, us: Answerer) -> Result<(), HelloRefusal> {
    if hello.to.0 != 0 && hello.to != us.node {
        return Err(HelloRefusal::OtherNode { node: us.node });
    }
    match (hello.cluster, us.cluster) {
        // Two empty disks have nothing to say to each other, nor may a cluster take one that did not ask.
        (_, 0) => return Err(HelloRefusal::NotJoined),
        (0, _) => {}
        (theirs, ours) if theirs != ours => return Err(HelloRefusal::OtherCluster { cluster: ours }),
        _ => {}
    }
    if hello.feature_level < us.feature_level {
        return Err(HelloRefusal::TooOld {
            level: us.feature_level,
        });
    }
    Ok(())
}

/// Takes a call: reads what the caller says and answers. After a refusal nothing more must be read.
pub(super) async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: Answerer,
) -> Result<Hello, HelloError> {
    let hello = Hello::read(stream).await;
    let verdict = match &hello {
        Ok(hello) => judge(hello, us).err(),
        Err(HelloError::Refused(refusal)) => Some(*refusal),
        Err(HelloError::Io(_)) => return hello,
    };
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u8(verdict.map_or(0, HelloRefusal::code));
    out.put_u128_le(us.cluster);
    out.put_u64_le(us.node.0);
    out.put_u32_le(us.feature_level);
    stream.write_all(&out).await?;
    stream.flush().await?;
    match verdict {
        None => hello,
        Some(refusal) => {
            // The caller reads the verdict before it sees the end.
            let _ = stream.shutdown().await;
            Err(refusal.into())
        }
    }
}

/// Makes a call; the answer must be of the cluster and the node that were meant.
pub(super) async fn call(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    hello: &Hello,
) -> Result<Answerer, HelloError> {
    stream.write_all(&hello.encode()).await?;
    stream.flush().await?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).await?;
    let mut rest = &answer[..];
    if rest[..4] != MAGIC || rest[4] != VERSION {
        return Err(HelloRefusal::NotUnderstood.into());
    }
    rest.advance(5);
    let verdict = rest.get_u8();
    let them = Answerer {
        cluster: rest.get_u128_le(),
        node: NodeId(rest.get_u64_le()),
        feature_level: rest.get_u32_le(),
    };
    match verdict {
        0 => {}
        1 => return Err(HelloRefusal::OtherCluster { cluster: them.cluster }.into()),
        2 => return Err(HelloRefusal::OtherNode { node: them.node }.into()),
        3 => {
            let level = them.feature_level;
            return Err(HelloRefusal::TooOld { level }.into());
        }
        5 => return Err(HelloRefusal::NotJoined.into()),
        _ => return Err(HelloRefusal::NotUnderstood.into()),
    }
    if hello.to.0 != 0 && hello.to != them.node {
        return Err(HelloRefusal::OtherNode { node: them.node }.into());
    }
    if hello.cluster != 0 && hello.cluster != them.cluster {
        return Err(HelloRefusal::OtherCluster { cluster: them.cluster }.into());
    }
    Ok(them)
}

#[cfg(test)]
mod tests {
    //! Who calls whom, and what comes of it.

    use super::*;

    fn hello(cluster: u128, to: u64, feature_level: u32) -> Hello {
        Hello {
            kind: ConnectionKind::Data,
            cluster,
            from: NodeId(1),
            to: NodeId(to),
            feature_level,
            address: "node-1:7946".into(),
        }
    }

    const US: Answerer = Answerer {
        cluster: 7,
        node: NodeId(2),
        feature_level: 3,
    };

    async fn meet(hello: &Hello, us: Answerer) -> (Result<Answerer, String>, Result<Hello, String>) {
        let (mut caller, mut answerer) = tokio::io::duplex(4096);
        let (called, answered) = tokio::join!(call(&mut caller, hello), answer(&mut answerer, us));
        (called.map_err(|e| e.to_string()), answered.map_err(|e| e.to_string()))
    }

    #[tokio::test]
    async fn nodes_of_one_cluster_meet_and_both_sides_know_whom() {
        for caller in [hello(7, 2, 3), hello(7, 0, 4), hello(0, 0, 3)] {
            let (called, answered) = meet(&caller, US).await;
            assert_eq!((called, answered), (Ok(US), Ok(caller)));
        }
    }

    #[tokio::test]
    async fn whoever_is_wrong_is_told_why() {
        let empty = Answerer { cluster: 0, ..US };
        let cases = [
            (hello(8, 2, 3), US, HelloRefusal::OtherCluster { cluster: 7 }),
            (hello(7, 3, 3), US, HelloRefusal::OtherNode { node: NodeId(2) }),
            (hello(7, 2, 2), US, HelloRefusal::TooOld { level: 3 }),
            (hello(0, 0, 3), empty, HelloRefusal::NotJoined),
            (hello(7, 2, 3), empty, HelloRefusal::NotJoined),
        ];
        for (caller, us, refusal) in cases {
            let expected = format!("refused: {refusal}");
            let (called, answered) = meet(&caller, us).await;
            assert_eq!((called, answered), (Err(expected.clone()), Err(expected)));
        }
    }

    #[tokio::test]
    async fn noise_is_refused_without_reading_on() {
        let longest = Hello {
            address: "x".repeat(ADDRESS_BYTES_MAX).into(),
            ..hello(7, 2, 3)
        };
        assert!(meet(&longest, US).await.1.is_ok());
        let mut too_long = longest.encode();
        let at = HEAD_BYTES - 2;
        too_long[at..at + 2].copy_from_slice(&(ADDRESS_BYTES_MAX as u16 + 1).to_le_bytes());
        let http = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n0123456789012345678901234567890123".to_vec();
        for noise in [too_long, http] {
            let (mut caller, mut answerer) = tokio::io::duplex(4096);
            caller.write_all(&noise).await.unwrap();
            let answered = answer(&mut answerer, US).await;
            assert!(matches!(
                answered,
                Err(HelloError::Refused(HelloRefusal::NotUnderstood))
            ));
        }
    }
}
