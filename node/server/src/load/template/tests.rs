//! The traffic is what it says it is, seen by the walker that reads real traffic.

use std::collections::{HashMap, HashSet};

use model::otlp::{self, Repeated, read_span};
use model::proto::Malformed;

use super::*;

struct Seen {
    trace: Vec<u8>,
    span: Vec<u8>,
    parent: Vec<u8>,
    start: u64,
    end: u64,
    attributes: usize,
    events: usize,
    links: usize,
}

/// Every span of one copy, read back.
fn read(templates: &Templates, copy: u64, base: u64) -> Vec<Seen> {
    let mut all = Vec::new();
    for request in 0..templates.len() {
        let bytes = templates.copy(copy, request, base);
        assert_eq!(bytes[0], 0);
        assert_eq!(
            u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize,
            bytes.len() - PREFIX_BYTES
        );
        let before = all.len();
        for span in otlp::spans(&bytes[PREFIX_BYTES..]) {
            let (mut attributes, mut events, mut links) = (0, 0, 0);
            let view = read_span(span.unwrap(), |repeated| -> Result<(), Malformed> {
                match repeated {
                    Repeated::Attribute(_) => attributes += 1,
                    Repeated::Event(_) => events += 1,
                    Repeated::Link(_) => links += 1,
                    Repeated::Unknown(_) | Repeated::Again { .. } => panic!("no such fields are sent"),
                }
                Ok(())
            })
            .unwrap();
            all.push(Seen {
                trace: view.trace_id.to_vec(),
                span: view.span_id.to_vec(),
                parent: view.parent_span_id.to_vec(),
                start: view.start_unix_nanos,
                end: view.end_unix_nanos,
                attributes,
                events,
                links,
            });
        }
        assert_eq!(all.len() - before, templates.spans_of(request) as usize);
    }
    all
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let (one, same, other) = (Templates::new(1), Templates::new(1), Templates::new(2));
    assert_eq!(one.copy(3, 5, 77), same.copy(3, 5, 77));
    assert_ne!(one.copy(3, 5, 77), other.copy(3, 5, 77));
    assert_ne!(one.copy(3, 5, 77), one.copy(4, 5, 77));
}

#[test]
fn a_copy_is_whole_traces_with_fresh_ids() {
    let templates = Templates::new(1);
    let base = 1_700_000_000_000_000_000;
    let (first, second) = (read(&templates, 0, base), read(&templates, 1, base));
    assert_eq!(first.len() as u64, templates.spans());
    let ids: HashSet<_> = first.iter().chain(&second).map(|seen| &seen.span).collect();
    assert_eq!(ids.len(), first.len() + second.len(), "span ids are unique");
    let traces: HashSet<_> = first.iter().map(|seen| seen.trace.clone()).collect();
    let named: HashSet<_> = templates.trace_ids(0).map(|id| id.0.to_vec()).collect();
    assert_eq!(traces, named);
    let mut roots: HashMap<_, usize> = HashMap::new();
    let known: HashSet<_> = first.iter().map(|seen| (&seen.trace, &seen.span)).collect();
    for seen in &first {
        if seen.parent.is_empty() {
            *roots.entry(&seen.trace).or_default() += 1;
        } else {
            assert!(
                known.contains(&(&seen.trace, &seen.parent)),
                "every parent is in the trace"
            );
        }
        assert!(seen.start < seen.end && seen.end <= base && seen.start >= base - SPREAD_NANOS);
    }
    assert!(
        roots.len() == traces.len() && roots.values().all(|count| *count == 1),
        "one root per trace"
    );
}

#[test]
fn the_traffic_looks_like_traffic() {
    let templates = Templates::new(1);
    let all = read(&templates, 0, 1_700_000_000_000_000_000);
    let spans = all.len() as f64;
    let mean = |of: fn(&Seen) -> usize| all.iter().map(of).sum::<usize>() as f64 / spans;
    let bytes: usize = (0..templates.len())
        .map(|request| templates.copy(0, request, 1 << 60).len())
        .sum();
    let per_span = bytes as f64 / spans;
    let per_request = spans / templates.len() as f64;
    assert!((450.0..750.0).contains(&per_span), "{per_span} bytes per span");
    assert!(
        (250.0..=300.0).contains(&per_request),
        "{per_request} spans per request"
    );
    assert!(
        (7.0..14.0).contains(&mean(|seen| seen.attributes)),
        "{} attributes",
        mean(|seen| seen.attributes)
    );
    assert!(
        (0.01..0.04).contains(&mean(|seen| seen.events)),
        "{} events",
        mean(|seen| seen.events)
    );
    assert!(
        (0.005..0.2).contains(&mean(|seen| seen.links)),
        "{} links",
        mean(|seen| seen.links)
    );
    assert!((40_000.0..80_000.0).contains(&spans), "{spans} spans");
}
