//! Requests that are encoded once and copied for ever.
//!
//! Owns [`Templates`]: a few seconds of a company's traffic as export requests in the order in which they would arrive.
//! Spans of one trace come from many pods, so a trace is spread over several requests; one span in a hundred comes late.
//! [`Templates::copy`] gives one request of one copy of that traffic, with ids, times and unique texts of its own.

use super::piece::{Copy, Patch, Piece, mix};
use super::world::{Dice, Kind, World};

/// Spans of one resource in one request: a batch processor sends what gathered in its interval, up to 512.
const BATCH_SPANS: usize = 50;
/// Resources of one request, as a Collector in front of many pods merges them.
const BATCHES: usize = 6;
/// Traces of one copy: about 55 thousand spans, 30 MB.
const TRACES: u32 = 2_000;
/// Root spans begin anywhere in the first part of this; all spans end within it. Times count from here.
pub(crate) const SPREAD_NANOS: u64 = 4_000_000_000;
/// Length and compression flag in front of a gRPC message.
pub(crate) const PREFIX_BYTES: usize = 5;

/// One request, with room for the gRPC prefix in front.
#[derive(Debug)]
struct Template {
    framed: Vec<u8>,
    patches: Vec<Patch>,
    spans: u32,
}

/// All requests of one copy.
#[derive(Debug)]
pub struct Templates {
    requests: Vec<Template>,
    spans: u64,
    seed: u64,
}

/// A span waiting to be sent by its pod.
struct Sent {
    at: u64,
    pod: usize,
    span: Piece,
}

impl Templates {
    /// Everything follows from the seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let world = World::new(&mut dice);
        let mut sent = Vec::new();
        let mut numbers = Numbers::default();
        for trace in 0..TRACES {
            grow_trace(&world, &mut dice, trace, &mut numbers, &mut sent);
        }
        // A pod sends when its batch is due, so what arrives together began at different times.
        sent.sort_by_key(|sent| sent.at);
        let requests = into_requests(&world, sent);
        let spans = requests.iter().map(|request| u64::from(request.spans)).sum();
        Self { requests, spans, seed }
    }

    /// Requests in one copy.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Never: a company without traffic has no templates.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Spans in one copy.
    pub fn spans(&self) -> u64 {
        self.spans
    }

    /// Spans in this request of any copy.
    pub fn spans_of(&self, request: usize) -> u32 {
        self.requests[request % self.requests.len()].spans
    }

    /// One request of copy `copy`, as a gRPC message with its prefix. All spans end by `base_unix_nanos`.
    pub fn copy(&self, copy: u64, request: usize, base_unix_nanos: u64) -> Vec<u8> {
        let template = &self.requests[request % self.requests.len()];
        let mut bytes = template.framed.clone();
        let salt = mix(self.seed ^ mix(copy));
        let base_unix_nanos = base_unix_nanos.saturating_sub(SPREAD_NANOS);
        Copy { salt, base_unix_nanos }.apply(&template.patches, &mut bytes);
        bytes
    }

    /// Trace ids of one copy, so that a test can ask for what was sent.
    pub fn trace_ids(&self, copy: u64) -> impl Iterator<Item = model::TraceId> {
        let copy = Copy {
            salt: mix(self.seed ^ mix(copy)),
            base_unix_nanos: 0,
        };
        (0..TRACES).map(move |trace| model::TraceId(copy.trace_id(trace)))
    }
}

#[derive(Default)]
struct Numbers {
    span: u32,
}

impl Numbers {
    fn next_span(&mut self) -> u32 {
        self.span += 1;
        self.span
    }
}

/// A node of a trace that still grows.
struct Stem {
    parent: Option<u32>,
    kind: Kind,
    service: usize,
    begins: u64,
    takes: u64,
    depth: u32,
}

fn grow_trace(world: &World, dice: &mut Dice, trace: u32, numbers: &mut Numbers, sent: &mut Vec<Sent>) {
    // Sizes as they are found in the wild: most traces small, few large.
    let wanted = match dice.below(100) {
        0..40 => 3 + dice.below(8),
        40..80 => 10 + dice.below(25),
        80..97 => 30 + dice.below(70),
        _ => 100 + dice.below(200),
    };
    let entry = dice.index(5);
    let takes = 20_000_000 + dice.below(1_500_000_000);
    let begins = dice.below(SPREAD_NANOS - takes);
    let mut stems = vec![Stem {
        parent: None,
        kind: Kind::Server,
        service: entry,
        begins,
        takes,
        depth: 0,
    }];
    let mut grown = 0;
    while let Some(stem) = stems.pop() {
        let number = numbers.next_span();
        grown += 1;
        let peer = dice.index(world.services());
        let span = encode_span(world, dice, trace, number, &stem, peer);
        let pod = world.any_pod_of(stem.service, dice);
        let late = if dice.chance(1) { SPREAD_NANOS } else { 0 };
        let at = stem.begins + stem.takes + 50_000_000 + dice.below(500_000_000) + late;
        sent.push(Sent { at, pod, span });
        let children = if stem.depth > 12 { 0 } else { 1 + dice.below(4) };
        for child in 0..children {
            if grown + stems.len() as u64 >= wanted {
                break;
            }
            // A client or producer continues in another service, everything else inside its own.
            let (kind, service) = match stem.kind {
                Kind::Client => (Kind::Server, peer),
                Kind::Producer => (Kind::Consumer, peer),
                _ => (
                    dice.pick(&[Kind::Client, Kind::Client, Kind::Internal, Kind::Producer]),
                    stem.service,
                ),
            };
            let takes = 1 + stem.takes * (20 + dice.below(70)) / 100 / (child + 1);
            let begins = stem.begins + dice.below(stem.takes - takes + 1);
            stems.push(Stem {
                parent: Some(number),
                kind,
                service,
                begins,
                takes,
                depth: stem.depth + 1,
            });
        }
    }
}

fn encode_span(world: &World, dice: &mut Dice, trace: u32, number: u32, stem: &Stem, peer: usize) -> Piece {
    let mut span = Piece::default();
    span.trace_id(1, trace);
    span.span_id(2, number);
    if dice.chance(10) {
        span.text(3, "ot=th:8");
    }
    if let Some(parent) = stem.parent {
        span.span_id(4, parent);
    }
    span.varint(6, stem.kind as u64);
    span.time(7, stem.begins);
    span.time(8, stem.begins + stem.takes);
    world.describe(&mut span, dice, stem.kind, stem.service, peer, number);
    if stem.kind == Kind::Consumer && number > 1 {
        let mut link = Piece::default();
        link.trace_id(1, trace.saturating_sub(1));
        link.span_id(2, number - 1);
        span.message(13, &link);
    }
    // Sampled, and not remote unless the parent is in another process.
    span.fixed32(
        16,
        if matches!(stem.kind, Kind::Server | Kind::Consumer) {
            0x301
        } else {
            0x101
        },
    );
    span
}

/// Batches of one pod each, some of them per request, in order of time.
fn into_requests(world: &World, sent: Vec<Sent>) -> Vec<Template> {
    // A pod alone would need minutes for a batch of 50; the stand-in is a node's agent that sees all pods of a service.
    let mut open: Vec<Vec<Piece>> = vec![Vec::new(); world.services()];
    let mut pod_of: Vec<usize> = vec![0; world.services()];
    let mut batches = Vec::new();
    for Sent { pod, span, .. } in sent {
        let service = world.pods[pod].service;
        if open[service].is_empty() {
            pod_of[service] = pod;
        }
        open[service].push(span);
        if open[service].len() == BATCH_SPANS {
            batches.push((pod_of[service], std::mem::take(&mut open[service])));
        }
    }
    let rest = pod_of.into_iter().zip(open).filter(|(_, spans)| !spans.is_empty());
    batches.extend(rest);
    batches
        .chunks(BATCHES)
        .map(|chunk| into_request(world, chunk))
        .collect()
}

fn into_request(world: &World, batches: &[(usize, Vec<Piece>)]) -> Template {
    let mut request = Piece::default();
    let mut count = 0;
    for (pod, spans) in batches {
        let pod = &world.pods[*pod];
        let mut scope_spans = Piece::default();
        scope_spans.message(1, &pod.scope);
        for span in spans {
            scope_spans.message(2, span);
        }
        scope_spans.text(3, "https://opentelemetry.io/schemas/1.37.0");
        let mut resource_spans = Piece::default();
        resource_spans.message(1, &pod.resource);
        resource_spans.message(2, &scope_spans);
        request.message(1, &resource_spans);
        count += spans.len();
    }
    let mut framed = Piece::default();
    framed.bytes.push(0);
    let length = u32::try_from(request.bytes.len()).expect("a request is far smaller than 4 GiB");
    framed.bytes.extend_from_slice(&length.to_be_bytes());
    debug_assert_eq!(framed.bytes.len(), PREFIX_BYTES);
    framed.append(&request);
    let spans = u32::try_from(count).expect("a request has some hundred spans");
    Template {
        framed: framed.bytes,
        patches: framed.patches,
        spans,
    }
}

#[cfg(test)]
mod tests;
