//! The faults in front of the bucket: which request meets which, decided by a seed.
//!
//! A [`Rule`] names requests (operation, key prefix) and the [`Toxic`] they meet, how likely, and how often. Rules are
//! asked in order and their effects add up; [`Fate`] is the sum for one request. Deciding is pure: the draw for the
//! n-th request that a rule matched depends only on (seed, rule, n), so a run with one client repeats exactly, and a run
//! with many clients differs only in who comes n-th.
//!
//! Acting on a fate is [`super::serve`]'s work.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::traffic::Op;
use crate::spans::mix;

/// One fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Toxic {
    /// Answer with this status and S3 error code without doing anything.
    Fail {
        /// HTTP status.
        status: u16,
        /// The `<Code>` in the body.
        code: String,
    },
    /// Close the connection before anything is done.
    DropRequest,
    /// Do it, then close the connection without an answer: the client cannot know.
    DropReply,
    /// Wait before doing it; the jitter is drawn evenly from 0 to `jitter_ms`.
    Latency {
        /// Fixed part.
        ms: u64,
        /// Varying part.
        #[serde(default)]
        jitter_ms: u64,
    },
    /// Let bodies pass no faster than this, both ways.
    Bandwidth {
        /// Bytes per second, at least 1.
        bytes_per_s: u64,
    },
    /// Announce the whole body of a GET, send this share of it, close the connection.
    TruncateBody {
        /// 0 to 99.
        keep_percent: u8,
    },
    /// Flip one bit in the body of a GET, keeping length and ETag.
    FlipBit,
    /// Answer LIST as the bucket stood this many mutations ago.
    StaleList {
        /// How many writes and deletes are not seen yet.
        mutations: u64,
    },
}

impl Toxic {
    /// `503 SlowDown`, as S3 throttles.
    pub fn slow_down() -> Self {
        Self::Fail {
            status: 503,
            code: "SlowDown".to_owned(),
        }
    }

    /// `500 InternalError`.
    pub fn internal() -> Self {
        Self::Fail {
            status: 500,
            code: "InternalError".to_owned(),
        }
    }

    /// `429 TooManyRequests`, as some S3-compatible stores throttle.
    pub fn too_many() -> Self {
        Self::Fail {
            status: 429,
            code: "TooManyRequests".to_owned(),
        }
    }

    /// `403 AccessDenied`.
    pub fn forbidden() -> Self {
        Self::Fail {
            status: 403,
            code: "AccessDenied".to_owned(),
        }
    }

    /// `409 ConditionalRequestConflict`, as S3 answers racing conditional writes.
    pub fn conflict() -> Self {
        Self::Fail {
            status: 409,
            code: "ConditionalRequestConflict".to_owned(),
        }
    }
}

/// Which requests meet a toxic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Empty: every operation.
    #[serde(default)]
    pub ops: Vec<Op>,
    /// Only keys that start so.
    #[serde(default)]
    pub key_prefix: String,
    /// What happens.
    pub toxic: Toxic,
    /// 0 to 1.
    #[serde(default = "certain")]
    pub probability: f64,
    /// How many matching requests pass untouched first.
    #[serde(default)]
    pub skip: u64,
    /// How many times it strikes; `None`: for ever.
    #[serde(default)]
    pub times: Option<u64>,
}

fn certain() -> f64 {
    1.0
}

impl Rule {
    /// Strikes every request of these operations (none: of all).
    pub fn always(ops: &[Op], toxic: Toxic) -> Self {
        Self {
            ops: ops.to_vec(),
            key_prefix: String::new(),
            toxic,
            probability: 1.0,
            skip: 0,
            times: None,
        }
    }

    /// Strikes a share of the requests.
    pub fn sometimes(ops: &[Op], probability: f64, toxic: Toxic) -> Self {
        Self {
            probability,
            ..Self::always(ops, toxic)
        }
    }

    /// Strikes the next `times` requests of these operations and then no more.
    pub fn times(ops: &[Op], times: u64, toxic: Toxic) -> Self {
        Self {
            times: Some(times),
            ..Self::always(ops, toxic)
        }
    }

    /// Narrows to keys with this prefix.
    #[must_use]
    pub fn under(mut self, key_prefix: &str) -> Self {
        self.key_prefix = key_prefix.to_owned();
        self
    }

    fn matches(&self, op: Op, key: &str) -> bool {
        (self.ops.is_empty() || self.ops.contains(&op)) && key.starts_with(&self.key_prefix)
    }
}

/// Whether the store is there at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// Serving.
    Up,
    /// Listening, and answering 503 to everything.
    Unavailable,
    /// Not listening: connections are refused, open ones are cut.
    Refusing,
}

/// The handle with which a test breaks and heals the store; clones are the same handle.
#[derive(Debug, Clone)]
pub struct Toxics {
    seed: u64,
    rules: Arc<Mutex<Vec<ArmedRule>>>,
    availability: Arc<watch::Sender<Availability>>,
}

#[derive(Debug)]
struct ArmedRule {
    rule: Rule,
    matched: u64,
    struck: u64,
}

/// What one request meets.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Fate {
    pub(super) delay: Duration,
    pub(super) fail: Option<(u16, String)>,
    pub(super) drop_request: bool,
    pub(super) drop_reply: bool,
    pub(super) bytes_per_s: Option<u64>,
    pub(super) keep_percent: Option<u8>,
    /// A draw from which the bit is chosen once the body's length is known.
    pub(super) flip: Option<u64>,
    pub(super) stale_by: u64,
}

impl Toxics {
    /// No rules, up.
    pub fn new(seed: u64) -> Self {
        let (availability, _) = watch::channel(Availability::Up);
        Self {
            seed,
            rules: Arc::default(),
            availability: Arc::new(availability),
        }
    }

    /// Adds a rule after the present ones.
    pub fn add(&self, rule: Rule) {
        self.lock().push(ArmedRule {
            rule,
            matched: 0,
            struck: 0,
        });
    }

    /// Replaces all rules; their counts start anew.
    pub fn set(&self, rules: Vec<Rule>) {
        *self.lock() = rules
            .into_iter()
            .map(|rule| ArmedRule {
                rule,
                matched: 0,
                struck: 0,
            })
            .collect();
    }

    /// Removes every rule and brings the store up.
    pub fn heal(&self) {
        self.set(Vec::new());
        self.set_availability(Availability::Up);
    }

    /// The rules in force, each with how often it struck.
    pub fn rules(&self) -> Vec<(Rule, u64)> {
        self.lock()
            .iter()
            .map(|armed| (armed.rule.clone(), armed.struck))
            .collect()
    }

    /// Takes the store away or gives it back. The socket follows within moments; see [`super::S3Server::reachable`].
    pub fn set_availability(&self, availability: Availability) {
        self.availability.send_replace(availability);
    }

    /// Whether the store is there.
    pub fn availability(&self) -> Availability {
        *self.availability.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }

    pub(super) fn decide(&self, op: Op, key: &str) -> Fate {
        let mut fate = Fate::default();
        for (index, armed) in self.lock().iter_mut().enumerate() {
            if !armed.rule.matches(op, key) {
                continue;
            }
            armed.matched += 1;
            if armed.matched <= armed.rule.skip || armed.rule.times.is_some_and(|times| armed.struck >= times) {
                continue;
            }
            let draw = mix(mix(self.seed, index as u64), armed.matched);
            if !strikes(draw, armed.rule.probability) {
                continue;
            }
            armed.struck += 1;
            fate.suffer(&armed.rule.toxic, mix(draw, 1));
        }
        fate
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ArmedRule>> {
        self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Fate {
    fn suffer(&mut self, toxic: &Toxic, draw: u64) {
        match toxic {
            // The first failing rule has the word.
            Toxic::Fail { status, code } => {
                self.fail.get_or_insert_with(|| (*status, code.clone()));
            }
            Toxic::DropRequest => self.drop_request = true,
            Toxic::DropReply => self.drop_reply = true,
            Toxic::Latency { ms, jitter_ms } => {
                self.delay += Duration::from_millis(ms + draw % (jitter_ms + 1));
            }
            Toxic::Bandwidth { bytes_per_s } => {
                let slowest = self.bytes_per_s.unwrap_or(u64::MAX).min((*bytes_per_s).max(1));
                self.bytes_per_s = Some(slowest);
            }
            Toxic::TruncateBody { keep_percent } => self.keep_percent = Some((*keep_percent).min(99)),
            Toxic::FlipBit => self.flip = Some(draw),
            Toxic::StaleList { mutations } => self.stale_by = self.stale_by.max(*mutations),
        }
    }
}

/// The top 53 bits of the draw as a number in [0, 1).
fn strikes(draw: u64, probability: f64) -> bool {
    const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
    ((draw >> 11) as f64) * UNIT < probability
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_fates() {
        let fates = |seed| {
            let toxics = Toxics::new(seed);
            toxics.add(Rule::sometimes(&[Op::Get], 0.3, Toxic::internal()));
            (0..200)
                .map(|_| toxics.decide(Op::Get, "k").fail.is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
        let struck = fates(1).into_iter().filter(|struck| *struck).count();
        assert!((35..85).contains(&struck), "{struck} of 200 at 30 %");
    }

    #[test]
    fn rules_are_narrow() {
        let toxics = Toxics::new(0);
        toxics.add(Rule::times(&[Op::Put], 1, Toxic::slow_down()).under("blocks/"));
        assert_eq!(toxics.decide(Op::Put, "wal/x"), Fate::default());
        assert_eq!(toxics.decide(Op::Get, "blocks/x"), Fate::default());
        assert!(toxics.decide(Op::Put, "blocks/x").fail.is_some());
        assert!(toxics.decide(Op::Put, "blocks/x").fail.is_none(), "once was asked for");
    }

    #[test]
    fn rules_have_a_wire_form() {
        let text =
            r#"{"ops":["put","upload-part"],"key_prefix":"blocks/","toxic":{"kind":"latency","ms":50},"times":3}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.ops, [Op::Put, Op::UploadPart]);
        assert_eq!(rule.toxic, Toxic::Latency { ms: 50, jitter_ms: 0 });
    }
}
