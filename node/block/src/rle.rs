//! Parquet's RLE / bit-packed hybrid: dictionary ids and definition levels.
//!
//! Encoding takes a page's ids in one slice, so that runs are found by looking ahead instead of by buffering eight
//! values at a time. Decoding unpacks groups of eight with the bit width as a constant, which is what the scan speed
//! of hot columns rests on: one page of 8,192 ids is 1,024 groups of straight-line shifts.
//!
//! Malformed bytes make the decoders answer [`Malformed`]; they never read outside the slice and never produce more
//! values than were asked for.

/// The bytes are not a hybrid of the asked width and count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Shortest run worth an RLE header of its own. A header costs up to three bytes and splits a literal run (another
/// byte or two); sixteen 4-bit ids take eight bytes.
const RUN_MIN: usize = 16;

/// Bits needed for ids `0..=max`.
pub(crate) fn bit_width(max: u32) -> u8 {
    (32 - max.leading_zeros()) as u8
}

/// Appends `ids` as one hybrid of `width` bits.
pub(crate) fn encode(ids: &[u32], width: u8, out: &mut Vec<u8>) {
    let n = ids.len();
    let (mut literal, mut i) = (0, 0);
    while i < n {
        let v = ids[i];
        let mut end = i + 1;
        while end < n && ids[end] == v {
            end += 1;
        }
        // Literal runs come in groups of eight: the run lends its first values to fill the last group.
        let pad = (8 - (i - literal) % 8) % 8;
        if end - i >= RUN_MIN + pad || (i == literal && end == n && end - i >= 8) {
            if i > literal {
                literals(&ids[literal..i + pad], width, out);
                run(v, end - i - pad, width, out);
            } else {
                run(v, end - i, width, out);
            }
            literal = end;
        }
        i = end;
    }
    if literal < n {
        literals(&ids[literal..], width, out);
    }
}

fn run(value: u32, count: usize, width: u8, out: &mut Vec<u8>) {
    varint((count as u64) << 1, out);
    out.extend_from_slice(&value.to_le_bytes()[..usize::from(width).div_ceil(8)]);
}

fn literals(ids: &[u32], width: u8, out: &mut Vec<u8>) {
    let groups = ids.len().div_ceil(8);
    varint(((groups as u64) << 1) | 1, out);
    if width == 0 {
        return;
    }
    let start = out.len();
    out.reserve(groups * usize::from(width) + 8);
    let (mut acc, mut bits) = (0u64, 0u32);
    let width = u32::from(width);
    for &id in ids {
        acc |= u64::from(id) << bits;
        bits += width;
        if bits >= 32 {
            out.extend_from_slice(&(acc as u32).to_le_bytes());
            acc >>= 32;
            bits -= 32;
        }
    }
    out.extend_from_slice(&acc.to_le_bytes());
    out.resize(start + groups * width as usize, 0);
}

fn varint(mut v: u64, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut v = 0u64;
    for shift in (0..35).step_by(7) {
        let (&b, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        v |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Ok(v);
        }
    }
    Err(Malformed)
}

fn split<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], Malformed> {
    if n > bytes.len() {
        return Err(Malformed);
    }
    let (head, rest) = bytes.split_at(n);
    *bytes = rest;
    Ok(head)
}

/// One run of a hybrid.
enum Piece<'a> {
    Run { value: u32, count: usize },
    Literal { packed: &'a [u8], count: usize },
}

/// Takes the next run, bounded by the `left` values still wanted.
fn next_piece<'a>(bytes: &mut &'a [u8], width: u8, left: usize) -> Result<Piece<'a>, Malformed> {
    let header = read_varint(bytes)?;
    let n = (header >> 1) as usize;
    if n == 0 {
        return Err(Malformed);
    }
    if header & 1 == 0 {
        if n > left {
            return Err(Malformed);
        }
        let raw = split(bytes, usize::from(width).div_ceil(8))?;
        let mut le = [0u8; 4];
        le[..raw.len()].copy_from_slice(raw);
        let value = u32::from_le_bytes(le);
        if u64::from(value) >> width != 0 {
            return Err(Malformed);
        }
        return Ok(Piece::Run { value, count: n });
    }
    let count = n.checked_mul(8).ok_or(Malformed)?;
    if count > left.next_multiple_of(8) {
        return Err(Malformed);
    }
    let packed = split(bytes, n * usize::from(width))?;
    Ok(Piece::Literal {
        packed,
        count: count.min(left),
    })
}

/// Appends exactly `count` ids.
pub(crate) fn decode(mut bytes: &[u8], width: u8, count: usize, out: &mut Vec<u32>) -> Result<(), Malformed> {
    if width > 32 {
        return Err(Malformed);
    }
    let end = out.len() + count;
    out.reserve(count + 8);
    while out.len() < end {
        match next_piece(&mut bytes, width, end - out.len())? {
            Piece::Run { value, count } => out.resize(out.len() + count, value),
            Piece::Literal { packed, count } => unpack(packed, width, count, out),
        }
    }
    if bytes.is_empty() { Ok(()) } else { Err(Malformed) }
}

/// Appends `base + i` for every one-bit `i` of `count` definition levels (bit width 1), and answers how many there were.
pub(crate) fn decode_rows(mut bytes: &[u8], count: usize, base: u32, rows: &mut Vec<u32>) -> Result<usize, Malformed> {
    let before = rows.len();
    let mut at = 0usize;
    while at < count {
        match next_piece(&mut bytes, 1, count - at)? {
            Piece::Run { value, count } => {
                if value == 1 {
                    rows.extend(base + at as u32..base + (at + count) as u32);
                }
                at += count;
            }
            Piece::Literal { packed, count } => {
                let mut row = base + at as u32;
                let mut left = count;
                for chunk in packed.chunks(8) {
                    let mut le = [0u8; 8];
                    le[..chunk.len()].copy_from_slice(chunk);
                    let mut word = u64::from_le_bytes(le);
                    if left < 64 {
                        word &= (1u64 << left) - 1;
                    }
                    while word != 0 {
                        rows.push(row + word.trailing_zeros());
                        word &= word - 1;
                    }
                    row += 64;
                    left = left.saturating_sub(64);
                }
                at += count;
            }
        }
    }
    if bytes.is_empty() {
        Ok(rows.len() - before)
    } else {
        Err(Malformed)
    }
}

/// Appends definition levels (0 or 1) for `count` rows of which `present` (ascending, relative to the page) hold a
/// value.
pub(crate) fn encode_rows(present: &[u32], count: usize, out: &mut Vec<u8>) {
    let mut bits = vec![0u8; count.div_ceil(8)];
    for &r in present {
        bits[r as usize / 8] |= 1 << (r % 8);
    }
    if !count.is_multiple_of(8) && present.len() == count {
        // A full page is one run whatever its length.
        run(1, count, 1, out);
        return;
    }
    let whole = count / 8;
    let (mut literal, mut i) = (0, 0);
    while i < whole {
        let b = bits[i];
        if b != 0 && b != 0xff {
            i += 1;
            continue;
        }
        let mut end = i + 1;
        while end < whole && bits[end] == b {
            end += 1;
        }
        if end - i >= 4 || (i == 0 && end * 8 == count) {
            if i > literal {
                varint((((i - literal) as u64) << 1) | 1, out);
                out.extend_from_slice(&bits[literal..i]);
            }
            run(u32::from(b & 1), (end - i) * 8, 1, out);
            literal = end;
        }
        i = end;
    }
    if literal < bits.len() {
        varint((((bits.len() - literal) as u64) << 1) | 1, out);
        out.extend_from_slice(&bits[literal..]);
    }
}

fn unpack(packed: &[u8], width: u8, count: usize, out: &mut Vec<u32>) {
    macro_rules! dispatch {
        ($($w:literal)*) => {
            match width {
                0 => out.resize(out.len() + count, 0),
                $($w => unpack_width::<$w>(packed, count, out),)*
                _ => {}
            }
        };
    }
    dispatch!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
}

/// Eight values of `W` bits from the `W` bytes at the front of `group`; `group` holds 40 bytes so that wide loads stay
/// inside.
#[inline(always)]
fn unpack_group<const W: usize>(group: &[u8; 40]) -> [u32; 8] {
    let mask = (u64::MAX >> (64 - W)) as u32;
    let mut out = [0u32; 8];
    if W <= 8 {
        let word = u64::from_le_bytes([
            group[0], group[1], group[2], group[3], group[4], group[5], group[6], group[7],
        ]);
        for (i, o) in out.iter_mut().enumerate() {
            *o = (word >> (i * W)) as u32 & mask;
        }
    } else {
        for (i, o) in out.iter_mut().enumerate() {
            let at = i * W / 8;
            let word = u64::from_le_bytes([
                group[at],
                group[at + 1],
                group[at + 2],
                group[at + 3],
                group[at + 4],
                group[at + 5],
                group[at + 6],
                group[at + 7],
            ]);
            *o = (word >> (i * W % 8)) as u32 & mask;
        }
    }
    out
}

fn unpack_width<const W: usize>(packed: &[u8], count: usize, out: &mut Vec<u32>) {
    let keep = out.len() + count;
    let mut rest = packed;
    while let Some(group) = rest.first_chunk::<40>() {
        out.extend_from_slice(&unpack_group::<W>(group));
        rest = &rest[W..];
    }
    while !rest.is_empty() {
        let take = rest.len().min(40);
        let mut group = [0u8; 40];
        group[..take].copy_from_slice(&rest[..take]);
        out.extend_from_slice(&unpack_group::<W>(&group));
        rest = &rest[W.min(rest.len())..];
    }
    out.truncate(keep);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ids: &[u32], width: u8) {
        let mut bytes = Vec::new();
        encode(ids, width, &mut bytes);
        let mut back = vec![7];
        decode(&bytes, width, ids.len(), &mut back).unwrap();
        assert_eq!(&back[1..], ids, "width {width}");
        if !bytes.is_empty() {
            assert!(decode(&bytes[..bytes.len() - 1], width, ids.len(), &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn every_width_and_run_shape_round_trips() {
        let mut seed = 1u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32
        };
        for width in 0..=32u8 {
            let mask = ((1u64 << width) - 1) as u32;
            for len in [0usize, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100, 1000, 8192] {
                let random: Vec<u32> = (0..len).map(|_| next() & mask).collect();
                round(&random, width);
                let mut runs = Vec::new();
                while runs.len() < len {
                    let (v, n) = (next() & mask, 1 + next() as usize % 40);
                    runs.extend(std::iter::repeat_n(v, n));
                }
                runs.truncate(len);
                round(&runs, width);
                round(&vec![mask; len], width);
            }
        }
    }

    #[test]
    fn rows_round_trip_at_every_density() {
        let mut seed = 3u64;
        for count in [1usize, 5, 8, 9, 64, 100, 8191, 8192] {
            for keep in [0u64, 1, 10, 50, 90, 99, 100] {
                let rows: Vec<u32> = (0..count as u32)
                    .filter(|_| {
                        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        (seed >> 33) % 100 < keep
                    })
                    .collect();
                let mut bytes = Vec::new();
                encode_rows(&rows, count, &mut bytes);
                let mut back = Vec::new();
                assert_eq!(decode_rows(&bytes, count, 1000, &mut back), Ok(rows.len()));
                assert_eq!(
                    back,
                    rows.iter().map(|r| r + 1000).collect::<Vec<_>>(),
                    "{count} {keep}"
                );
            }
        }
    }

    #[test]
    fn hostile_bytes_are_malformed_not_endless() {
        for bytes in [
            &[][..],
            &[0x00],
            &[0x01],
            &[0xff; 6],
            &[0x02],
            &[0x03],
            &[0xfe, 0xff, 0xff, 0xff, 0x0f, 1],
        ] {
            assert!(decode(bytes, 3, 100, &mut Vec::new()).is_err(), "{bytes:?}");
            assert!(decode_rows(bytes, 100, 0, &mut Vec::new()).is_err(), "{bytes:?}");
        }
        // An RLE value wider than the bit width would index past the dictionary's power of two.
        assert!(decode(&[16, 9], 3, 8, &mut Vec::new()).is_err());
    }
}
