//! Parquet's BYTE_STREAM_SPLIT for eight-byte values: all first bytes, then all second bytes, and so on.
//!
//! Times and doubles share their high bytes, so zstd sees seven boring streams and one noisy one. Both directions go
//! through 8 x 8 byte transposes, a few operations per value instead of eight loads.

/// Appends the eight byte streams of `values`.
pub(crate) fn encode(values: &[u64], out: &mut Vec<u8>) {
    let n = values.len();
    let start = out.len();
    out.resize(start + 8 * n, 0);
    let streams = &mut out[start..];
    let whole = n / 8 * 8;
    for i in (0..whole).step_by(8) {
        let mut block = [0u64; 8];
        block.copy_from_slice(&values[i..i + 8]);
        for (s, word) in transpose(block).into_iter().enumerate() {
            streams[s * n + i..s * n + i + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
    for i in whole..n {
        for (s, byte) in values[i].to_le_bytes().into_iter().enumerate() {
            streams[s * n + i] = byte;
        }
    }
}

/// Appends the values whose streams are `bytes`; `false` if the length is not a multiple of eight.
#[must_use]
pub(crate) fn decode(bytes: &[u8], out: &mut Vec<u64>) -> bool {
    if !bytes.len().is_multiple_of(8) {
        return false;
    }
    let n = bytes.len() / 8;
    if n == 0 {
        return true;
    }
    out.reserve(n);
    let mut streams = [&bytes[..0]; 8];
    for (stream, slice) in streams.iter_mut().zip(bytes.chunks_exact(n)) {
        *stream = slice;
    }
    let whole = n / 8 * 8;
    for i in (0..whole).step_by(8) {
        let mut block = [0u64; 8];
        for (word, stream) in block.iter_mut().zip(&streams) {
            if let Some(eight) = stream[i..].first_chunk::<8>() {
                *word = u64::from_le_bytes(*eight);
            }
        }
        out.extend_from_slice(&transpose(block));
    }
    for i in whole..n {
        let mut le = [0u8; 8];
        for (byte, stream) in le.iter_mut().zip(&streams) {
            *byte = stream[i];
        }
        out.push(u64::from_le_bytes(le));
    }
    true
}

/// Transposes eight words as an 8 x 8 matrix of bytes. Its own inverse.
#[inline(always)]
fn transpose(mut m: [u64; 8]) -> [u64; 8] {
    #[inline(always)]
    fn swap(m: &mut [u64; 8], a: usize, b: usize, shift: u32, mask: u64) {
        let t = ((m[a] >> shift) ^ m[b]) & mask;
        m[b] ^= t;
        m[a] ^= t << shift;
    }
    for i in [0, 1, 2, 3] {
        swap(&mut m, i, i + 4, 32, 0x0000_0000_ffff_ffff);
    }
    for i in [0, 1, 4, 5] {
        swap(&mut m, i, i + 2, 16, 0x0000_ffff_0000_ffff);
    }
    for i in [0, 2, 4, 6] {
        swap(&mut m, i, i + 1, 8, 0x00ff_00ff_00ff_00ff);
    }
    m
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_as_the_format_says_and_come_back() {
        for n in [0usize, 1, 7, 8, 9, 100, 8192] {
            let values: Vec<u64> = (0..n as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            let mut bytes = Vec::new();
            encode(&values, &mut bytes);
            for (i, v) in values.iter().enumerate() {
                for (s, byte) in v.to_le_bytes().iter().enumerate() {
                    assert_eq!(bytes[s * n + i], *byte);
                }
            }
            let mut back = Vec::new();
            assert!(decode(&bytes, &mut back));
            assert_eq!(back, values);
        }
        assert!(!decode(&[1, 2, 3], &mut Vec::new()));
    }
}
