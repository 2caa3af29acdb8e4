//! Filters that say "certainly not in this block" for trace ids and for attributes that look like ids.
//!
//! A split-block filter as Parquet specifies it (eight odd multipliers, 256-bit blocks, the block picked by
//! multiply-shift), but of any number of blocks: Parquet's own writer rounds up to a power of two and so spends up to
//! twice the bytes. Parquet's table gives 16.9 bits a key for 0.1 % and 10.5 for 1 %.
//!
//! A section's filters are laid out one after the other, each 32-byte words in little endian, and named by the
//! directory at their front (see [`crate::format`]). Hashes are xxh3-64 with a seed per column, so that the same value
//! in two columns is two keys and one shared filter can serve every tail attribute.
//!
//! Never a false "no" for a value that was inserted; nothing else is promised.

use twox_hash::XxHash3_64;

const SALT: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// Bytes of one block of a filter.
pub(crate) const BLOCK_BYTES: usize = 32;

/// Hashes a filter key. `seed` names the column ([`crate::schema::ColumnKey::seed`]).
pub fn hash(seed: u64, value: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, value)
}

fn masks(hash: u64) -> [u32; 8] {
    SALT.map(|salt| 1u32 << ((hash as u32).wrapping_mul(salt) >> 27))
}

fn block_of(hash: u64, blocks: usize) -> usize {
    (((hash >> 32) * blocks as u64) >> 32) as usize
}

/// Bytes a filter takes for `keys` distinct keys.
pub(crate) fn bytes_for(keys: usize, bits_per_key: f64) -> usize {
    ((keys as f64 * bits_per_key / 8.0) as usize)
        .div_ceil(BLOCK_BYTES)
        .max(1)
        * BLOCK_BYTES
}

/// Builds the bytes of a filter over distinct `hashes`, `size` bytes long (a multiple of 32).
pub(crate) fn build(hashes: &[u64], size: usize) -> Vec<u8> {
    let blocks = size / BLOCK_BYTES;
    let mut words = vec![[0u32; 8]; blocks];
    for &h in hashes {
        for (word, mask) in words[block_of(h, blocks)].iter_mut().zip(masks(h)) {
            *word |= mask;
        }
    }
    words.iter().flatten().flat_map(|w| w.to_le_bytes()).collect()
}

/// Asks a filter's bytes. An empty filter knows nothing and so answers yes.
pub(crate) fn may_contain(filter: &[u8], hash: u64) -> bool {
    let blocks = filter.len() / BLOCK_BYTES;
    if blocks == 0 {
        return true;
    }
    let at = block_of(hash, blocks) * BLOCK_BYTES;
    filter[at..at + BLOCK_BYTES]
        .chunks_exact(4)
        .zip(masks(hash))
        .all(|(word, mask)| u32::from_le_bytes([word[0], word[1], word[2], word[3]]) & mask != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{TRACE_FILTER_BITS, VALUE_FILTER_BITS};

    #[test]
    fn every_key_is_found_and_strangers_mostly_not() {
        for (rate, bits) in [(0.01, VALUE_FILTER_BITS), (0.001, TRACE_FILTER_BITS)] {
            let keys: Vec<u64> = (0..20_000u64).map(|i| hash(7, &i.to_le_bytes())).collect();
            let filter = build(&keys, bytes_for(keys.len(), bits));
            assert!(keys.iter().all(|k| may_contain(&filter, *k)));
            let wrong = (0..200_000u64)
                .filter(|i| may_contain(&filter, hash(8, &i.to_le_bytes())))
                .count();
            assert!((wrong as f64) < 200_000.0 * rate * 1.2, "{wrong} at {rate}");
        }
    }

    #[test]
    fn an_empty_filter_knows_nothing() {
        assert!(may_contain(&[], 5));
        assert!(!may_contain(&build(&[], 32), 5));
    }
}
