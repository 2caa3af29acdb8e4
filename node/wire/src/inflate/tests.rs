//! Every encoding at its limits: limit - 1, limit, limit + 1, bombs, cuts, trailing bytes.

use std::io::Write;

use super::*;
use crate::error::Kind;

const COMPRESSED: [Encoding; 6] = [
    Encoding::Gzip,
    Encoding::Zstd,
    Encoding::Snappy,
    Encoding::SnappyFramed,
    Encoding::Zlib,
    Encoding::Lz4,
];

fn deflate(encoding: Encoding, plain: &[u8]) -> Bytes {
    let packed = match encoding {
        Encoding::Identity => plain.to_vec(),
        Encoding::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            out.write_all(plain).unwrap();
            out.finish().unwrap()
        }
        Encoding::Zlib => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
            out.write_all(plain).unwrap();
            out.finish().unwrap()
        }
        Encoding::Zstd => zstd::stream::encode_all(plain, 3).unwrap(),
        Encoding::Snappy => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
        Encoding::SnappyFramed => {
            let mut out = snap::write::FrameEncoder::new(Vec::new());
            out.write_all(plain).unwrap();
            out.into_inner().unwrap()
        }
        Encoding::Lz4 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(plain).unwrap();
            out.finish().unwrap()
        }
    };
    packed.into()
}

/// Bytes that do not compress below the ratio limit.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn limits(bytes_max: usize) -> InflateLimits {
    InflateLimits {
        bytes_max,
        ..InflateLimits::default()
    }
}

#[test]
fn what_was_packed_comes_back() {
    for length in [1, 1000, 300_000] {
        let plain = noise(length);
        for encoding in COMPRESSED {
            let body = inflate(encoding, deflate(encoding, &plain), &InflateLimits::default()).unwrap();
            assert!(body == plain, "{encoding:?} {length}");
        }
    }
}

#[test]
fn identity_is_not_copied_and_may_be_empty() {
    let body = Bytes::from_static(b"plain");
    let out = inflate(Encoding::Identity, body.clone(), &InflateLimits::default()).unwrap();
    assert_eq!(out.as_ptr(), body.as_ptr());
    assert!(
        inflate(Encoding::Identity, Bytes::new(), &InflateLimits::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn the_size_limit_is_inclusive() {
    let limit = 700_000;
    for encoding in COMPRESSED.into_iter().chain([Encoding::Identity]) {
        for (length, fits) in [(limit - 1, true), (limit, true), (limit + 1, false)] {
            let got = inflate(encoding, deflate(encoding, &noise(length)), &limits(limit));
            match got {
                Ok(body) => assert!(fits && body.len() == length, "{encoding:?} {length}"),
                Err(error) => assert!(
                    !fits && error.kind() == Kind::TooLarge,
                    "{encoding:?} {length}: {error}"
                ),
            }
        }
    }
}

#[test]
fn bombs_stop_early() {
    // Snappy cannot reach a ratio of 100; its bombs run into the size limit.
    for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Zlib, Encoding::Lz4] {
        let body = deflate(encoding, &vec![0; 8 << 20]);
        assert!(body.len() * 100 < 8 << 20, "{encoding:?}");
        let error = inflate(encoding, body, &InflateLimits::default()).unwrap_err();
        assert!(matches!(error, Error::Bomb { .. }), "{encoding:?}: {error}");
        assert_eq!(error.kind(), Kind::TooLarge);
        let small = deflate(encoding, &vec![0; 1 << 20]);
        assert_eq!(
            inflate(encoding, small, &InflateLimits::default()).unwrap().len(),
            1 << 20,
            "{encoding:?}"
        );
    }
}

#[test]
fn the_ratio_is_looked_at_from_a_size_on() {
    let length = 3 << 20;
    for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Zlib, Encoding::Lz4] {
        let body = deflate(encoding, &vec![0; length]);
        let is_bomb = |ratio_max: usize, ratio_free_bytes: usize| {
            let limits = InflateLimits {
                ratio_max,
                ratio_free_bytes,
                ..InflateLimits::default()
            };
            matches!(inflate(encoding, body.clone(), &limits), Err(Error::Bomb { .. }))
        };
        for (free, expected) in [(length - 1, true), (length, false), (length + 1, false)] {
            assert_eq!(is_bomb(2, free), expected, "{encoding:?} free up to {free}");
        }
        // The smallest ratio that this body does not exceed.
        let ratio = length / (body.len() + 1) + 1;
        for (ratio_max, expected) in [(ratio - 1, true), (ratio, false), (ratio + 1, false)] {
            assert_eq!(is_bomb(ratio_max, 1 << 20), expected, "{encoding:?} up to {ratio_max}");
        }
    }
}

#[test]
fn cut_streams_and_trailing_bytes_are_refused() {
    let plain = noise(5000);
    for encoding in COMPRESSED {
        let whole = deflate(encoding, &plain);
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            let got = inflate(encoding, whole.slice(..cut), &InflateLimits::default()).map(|body| body.len());
            let kind = got.as_ref().map_err(Error::kind);
            assert_eq!(kind, Err(Kind::Rejected), "{encoding:?} cut at {cut}");
        }
        for tail in [
            &b"x"[..],
            b"\0",
            b"garbage that is longer than any header could ever be",
        ] {
            let mut longer = whole.to_vec();
            longer.extend_from_slice(tail);
            let got = inflate(encoding, longer.into(), &InflateLimits::default()).map(|body| body.len());
            let kind = got.as_ref().map_err(Error::kind);
            assert_eq!(kind, Err(Kind::Rejected), "{encoding:?} with {tail:?}");
        }
    }
}

#[test]
fn several_gzip_members_and_zstd_frames_are_one_body() {
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        let mut both = deflate(encoding, b"one").to_vec();
        both.extend_from_slice(&deflate(encoding, b"two"));
        let body = inflate(encoding, both.into(), &InflateLimits::default()).unwrap();
        assert_eq!(&body[..], b"onetwo");
    }
}

/// Every piece as a member or frame of its own, one after the other.
fn deflate_each<'a>(encoding: Encoding, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    pieces
        .into_iter()
        .flat_map(|piece| deflate(encoding, piece).to_vec())
        .collect()
}

/// A zstd frame that decoders pass over (RFC 8878, 3.1.2).
fn skippable(length: u32) -> Vec<u8> {
    let mut frame = 0x184D_2A53_u32.to_le_bytes().to_vec();
    frame.extend_from_slice(&length.to_le_bytes());
    frame.resize(frame.len() + length as usize, b's');
    frame
}

#[test]
fn limits_are_for_all_members_and_frames_together() {
    let limit = 700_000;
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        for (length, fits) in [(limit - 1, true), (limit, true), (limit + 1, false)] {
            let plain = noise(length);
            let body = deflate_each(encoding, plain.chunks(999));
            let got = inflate(encoding, body.into(), &limits(limit));
            match got {
                Ok(body) => assert!(fits && body == plain, "{encoding:?} {length}"),
                Err(error) => assert!(
                    matches!(error, Error::BodyTooLarge { .. }) && !fits,
                    "{encoding:?}: {error}"
                ),
            }
        }
        // No frame alone is a bomb.
        let zeros = vec![0; 8 << 20];
        let body = deflate_each(encoding, zeros.chunks(64 << 10));
        let error = inflate(encoding, body.into(), &InflateLimits::default()).unwrap_err();
        assert!(matches!(error, Error::Bomb { .. }), "{encoding:?}: {error}");
    }
}

#[test]
fn zstd_frames_to_be_skipped_are_no_part_of_the_body() {
    let inflate = |body: Vec<u8>| inflate(Encoding::Zstd, body.into(), &limits(1000));
    let frame = |plain: &[u8]| deflate(Encoding::Zstd, plain).to_vec();
    let mixed = [
        skippable(0),
        frame(b"one"),
        skippable(5000),
        skippable(1),
        frame(b"two"),
        skippable(7),
    ];
    assert_eq!(&inflate(mixed.concat()).unwrap()[..], b"onetwo");
    assert!(inflate(skippable(9)).unwrap().is_empty());
    // One that says it is longer than what is there, up to the largest there can be.
    for (length, sent) in [(9_u32, 8), (u32::MAX, 0), (u32::MAX, 64)] {
        let mut body = frame(b"one");
        body.extend_from_slice(&skippable(0)[..4]);
        body.extend_from_slice(&length.to_le_bytes());
        body.extend(vec![b's'; sent]);
        assert_eq!(inflate(body).unwrap_err().kind(), Kind::Rejected, "{length} {sent}");
    }
}

#[test]
fn a_body_of_nothing_but_empty_members_is_empty() {
    // Some 800,000 members of gzip, 2,000,000 frames of zstd.
    for (encoding, empty) in [
        (Encoding::Gzip, deflate(Encoding::Gzip, b"").to_vec()),
        (Encoding::Zstd, deflate(Encoding::Zstd, b"").to_vec()),
        (Encoding::Zstd, skippable(0)),
    ] {
        let body = empty.repeat((16 << 20) / empty.len());
        assert!(
            inflate(encoding, body.into(), &InflateLimits::default())
                .unwrap()
                .is_empty()
        );
    }
}

#[test]
fn older_collectors_send_snappy_frames_under_the_name_of_the_block() {
    let framed = deflate(Encoding::SnappyFramed, b"hello");
    assert_eq!(
        &inflate(Encoding::Snappy, framed, &InflateLimits::default()).unwrap()[..],
        b"hello"
    );
}

#[test]
fn a_snappy_block_cannot_claim_more_than_its_bytes_can_make() {
    // Length 32 MiB, then one literal.
    let body = Bytes::from_static(&[0x80, 0x80, 0x80, 0x10, 0x00, b'a']);
    let unbounded = InflateLimits {
        ratio_max: usize::MAX,
        ..InflateLimits::default()
    };
    assert_eq!(
        inflate(Encoding::Snappy, body, &unbounded).unwrap_err().kind(),
        Kind::Rejected
    );
}

#[test]
fn encodings_are_known_by_name() {
    let known = |name| Encoding::from_header(Some(name));
    assert_eq!(Encoding::from_header(None).unwrap(), Encoding::Identity);
    assert_eq!(known("").unwrap(), Encoding::Identity);
    assert_eq!(known(" GZip ").unwrap(), Encoding::Gzip);
    for encoding in COMPRESSED {
        assert_eq!(known(encoding.name()).unwrap(), encoding);
    }
    assert_eq!(known("br").unwrap_err().kind(), Kind::UnknownEncoding);
    assert_eq!(known("gzip, zstd").unwrap_err().kind(), Kind::UnknownEncoding);
}
