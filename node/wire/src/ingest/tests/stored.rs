//! What is stored of a request, span by span, and in which parts.

use super::*;

#[test]
fn every_span_of_a_real_request_is_stored_as_it_came() {
    let sent = synthetic::request(1, 3000);
    let body = sent.encode_to_vec();
    let tenant = TenantId::single();
    let limits = IngestLimits::default();
    let scan = scan(&body, &limits, |id| ShardId::of(tenant.placement_hash(id), 4)).unwrap();
    assert_eq!(scan.outcome().partial_success(&limits), None);
    assert_eq!(scan.span_count(), 3000);
    let hash = BatchHash::of_request(&tenant, &body);
    let routed = scan.into_sub_batches(&tenant, hash);
    assert_eq!(routed.iter().map(|r| r.shard.0).collect::<Vec<_>>(), [0, 1, 2, 3]);

    let mut found = Vec::new();
    for Routed { shard, sub_batch } in &routed {
        let contents = sub_batch.contents().unwrap();
        let mut last = Vec::new();
        for frame in contents.spans() {
            let frame = frame.unwrap();
            let span = Span::decode(frame.span).unwrap();
            assert!(last <= span.trace_id, "sorted by trace id");
            last.clone_from(&span.trace_id);
            let id = TraceId(span.trace_id.clone().try_into().unwrap());
            assert_eq!(ShardId::of(tenant.placement_hash(&id), 4), *shard);
            let resource = contents.resource(frame.resource);
            let scope = contents.scope(frame.scope);
            found.push((
                resource.message.unwrap().to_vec(),
                resource.schema_url.to_vec(),
                scope.message.unwrap().to_vec(),
                span,
            ));
        }
        assert_eq!(sub_batch.header().hash, hash);
        assert_eq!(sub_batch.header().span_count, contents.spans().count() as u32);
    }
    let mut expected = Vec::new();
    for resource in &sent.resource_spans {
        let message = resource.resource.as_ref().unwrap().encode_to_vec();
        for scope in &resource.scope_spans {
            let url = resource.schema_url.clone().into_bytes();
            let scope_message = scope.scope.as_ref().unwrap().encode_to_vec();
            expected.extend(
                scope
                    .spans
                    .iter()
                    .map(|s| (message.clone(), url.clone(), scope_message.clone(), s.clone())),
            );
        }
    }
    let key = |row: &(Vec<u8>, Vec<u8>, Vec<u8>, Span)| row.3.span_id.clone();
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert!(found == expected);
}

#[test]
fn equal_resources_are_kept_once_and_absent_is_not_empty() {
    let of = |resource: Option<Resource>, url: &str| {
        let scope_spans = ScopeSpans {
            spans: vec![span()],
            ..ScopeSpans::default()
        };
        ResourceSpans {
            resource,
            scope_spans: vec![scope_spans],
            schema_url: url.into(),
        }
    };
    let full = Resource {
        attributes: vec![pair("service.name", text("a"))],
        ..Resource::default()
    };
    let empty = Some(Resource::default());
    let resource_spans = vec![
        of(Some(full.clone()), ""),
        of(None, ""),
        of(empty, ""),
        of(Some(full.clone()), ""),
        of(Some(full), "u"),
    ];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    let scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    let routed = scan.into_sub_batches(&TenantId::single(), BatchHash(7));
    let contents = routed[0].sub_batch.contents().unwrap();
    let order: Vec<u32> = contents.spans().map(|span| span.unwrap().resource).collect();
    assert_eq!(order, [0, 1, 2, 0, 3]);
    assert_eq!(contents.resource(1).message, None);
    assert_eq!(contents.resource(2).message, Some(&[][..]));
    assert_eq!(contents.resource(3).schema_url, b"u");
    assert_eq!(contents.scope_count(), 1);
}

#[test]
fn bad_ids_reject_their_span_alone() {
    let with = |trace_id: &[u8], span_id: &[u8]| Span {
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        ..span()
    };
    let cases = [
        (with(&[1; 15], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[1; 17], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[0; 16], &[2; 8]), Some(Rejection::TraceId)),
        (with(&[1; 16], &[2; 7]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[2; 9]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[0; 8]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[]), Some(Rejection::SpanId)),
        (with(&[1; 16], &[2; 8]), None),
    ];
    for (span, rejection) in &cases {
        let (stored, outcome) = ingest(span.clone(), &IngestLimits::default());
        assert_eq!(outcome.first_rejection, *rejection);
        assert_eq!(stored.is_none(), rejection.is_some());
    }
    let body = body_of(cases.iter().map(|(span, _)| span.clone()).collect());
    let limits = IngestLimits::default();
    let scan = scan(&body, &limits, one_shard).unwrap();
    let (rejected, message) = scan.outcome().partial_success(&limits).unwrap();
    assert_eq!(rejected, 8);
    assert_eq!(
        message,
        "rejected 8 of 9 spans, first: trace id is not 16 bytes of which one is not zero"
    );
    assert_eq!(scan.outcome().rejections[..2], [4, 4]);
    assert_eq!(stored(scan).len(), 1);
}

#[test]
fn odd_times_are_kept_and_only_old_spans_are_rejected() {
    let limits = IngestLimits {
        oldest_unix_nanos: 1000,
        ..IngestLimits::default()
    };
    let cases = [
        (999, 998, false),
        (998, 999, false),
        (999, 1000, true),
        (1000, 0, true),
        (1001, 1, true),
        (0, 0, true),
        (0, 999, false),
        (u64::MAX, 1, true),
    ];
    for (start, end, accepted) in cases {
        let sent = Span {
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            ..span()
        };
        let (stored, outcome) = ingest(sent.clone(), &limits);
        assert_eq!(stored, accepted.then_some(sent), "{start} {end}");
        assert_eq!(outcome.first_rejection, (!accepted).then_some(Rejection::TooOld));
    }
    let body = body_of(
        [7, 0, 9]
            .map(|start| Span {
                start_time_unix_nano: start,
                ..span()
            })
            .to_vec(),
    );
    let scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    let header = scan.into_sub_batches(&TenantId::single(), BatchHash(7))[0]
        .sub_batch
        .header()
        .clone();
    assert_eq!((header.start_min_unix_nanos, header.start_max_unix_nanos), (0, 9));
}

#[test]
fn a_large_request_is_cut_into_the_same_parts_by_every_retry() {
    let body = synthetic::request(5, 20_000).encode_to_vec();
    assert!(body.len() > 2 * PART_BYTES);
    let hash = BatchHash::of_request(&TenantId::single(), &body);
    let parts = |limits: &IngestLimits| {
        let scan = scan(&body, limits, one_shard).unwrap();
        let routed = scan.into_sub_batches(&TenantId::single(), hash);
        routed.into_iter().map(|routed| routed.sub_batch).collect::<Vec<_>>()
    };
    let first = parts(&IngestLimits::default());
    assert_eq!(first.len(), body.len().div_ceil(PART_BYTES));
    assert_eq!(first[0].header().hash, hash);
    let mut hashes: Vec<_> = first.iter().map(|part| part.header().hash).collect();
    // The retry comes later: meanwhile some spans have become too old. The parts keep their names and their borders.
    let retry = parts(&IngestLimits {
        oldest_unix_nanos: 1_700_000_000_000_000_000 + 20_000_000_000,
        ..IngestLimits::default()
    });
    assert_eq!(hashes, retry.iter().map(|part| part.header().hash).collect::<Vec<_>>());
    for (before, after) in first.iter().zip(&retry) {
        assert!(after.header().span_count < before.header().span_count);
        let kept: std::collections::BTreeSet<_> = before
            .contents()
            .unwrap()
            .spans()
            .map(|span| span.unwrap().span.to_vec())
            .collect();
        assert!(
            after
                .contents()
                .unwrap()
                .spans()
                .all(|span| kept.contains(span.unwrap().span))
        );
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), first.len());
}

/// What a span belongs to is known after it was read: taking it back leaves its neighbours of the same trace alone.
#[test]
fn spans_of_a_rejected_resource_or_scope_go_without_their_neighbours() {
    let long = || vec![pair("a key that is too long", text("v"))];
    let numbered = |n: u8| Span {
        span_id: vec![n; 8],
        attributes: vec![pair("k", text("v")), pair("l", text("v"))],
        ..span()
    };
    let scoped = |attributes, spans: &[u8]| ScopeSpans {
        scope: Some(InstrumentationScope {
            attributes,
            ..InstrumentationScope::default()
        }),
        spans: spans.iter().map(|n| numbered(*n)).collect(),
        ..ScopeSpans::default()
    };
    let owned = |attributes, scope_spans| ResourceSpans {
        resource: Some(Resource {
            attributes,
            ..Resource::default()
        }),
        scope_spans,
        ..ResourceSpans::default()
    };
    let body = ExportTraceServiceRequest {
        resource_spans: vec![
            owned(
                Vec::new(),
                vec![
                    scoped(Vec::new(), &[1, 2]),
                    scoped(long(), &[3, 4]),
                    scoped(Vec::new(), &[5]),
                ],
            ),
            owned(
                long(),
                vec![scoped(Vec::new(), &[6]), scoped(long(), &[7]), scoped(Vec::new(), &[8])],
            ),
            owned(Vec::new(), vec![scoped(long(), &[9]), scoped(Vec::new(), &[10])]),
        ],
    }
    .encode_to_vec();
    let scan = scan(&body, &small(Oversize::Reject), one_shard).unwrap();
    assert_eq!(
        (scan.outcome().received, scan.outcome().rejected(), scan.span_count()),
        (10, 6, 4)
    );
    let ids: Vec<u8> = stored(scan).iter().map(|span| span.span_id[0]).collect();
    assert_eq!(ids, [1, 2, 5, 10]);
}
