//! The bytes of a block, drawn; every constant of the format with its reason.
//!
//! ```text
//! object ── "PAR1"
//!         │ row group 0 ── column chunk 0 ── [dictionary page] data page … (DataPage V2, 8,192 rows, CRC each)
//!         │              └ column chunk 1 …
//!         │ row group 1 …                    a row group holds one tenant, whole traces, rows by (trace id, preorder)
//!         │ bloom section of tenant 1 … n    directory + filters, see `bloom`
//!         │ index section of tenant 1 … n    head + four zstd parts, see below
//!         │ parquet offset index, footer ── key-value metadata "vivace.block" names the sections as the writer does
//!         └ "PAR1"
//!
//! index section ── "VBIX" version:u16 flags:u16
//!                │ 4 x part { offset:u32 stored:u32 plain:u32 crc:u32 }   offset from the section's start
//!                │ crc:u32 of the 72 bytes before it
//!                │ part 0 core       tenant, totals, columns, row-group fences, tail keys
//!                │ part 1 owners     resource and scope blobs, whole, as the table interned them
//!                │ part 2 catalogue  attribute keys with counts and, when few, their distinct values
//!                └ part 3 chunks     per row group and column: where the pages lie and how to decode them
//!
//! bloom section ── "VBLM" version:u16 count:u16 { seed:u64 offset:u32 length:u32 crc:u32 } x count, crc:u32, filters
//! ```
//! Integers outside Parquet's own structures are little endian or LEB128. Every byte a reader of ours looks at is under
//! a CRC: pages by their own (stored in the chunks part), the index by its part's, filters by the directory's.
//!
//! Rows. `desc` counts the rows of a span's subtree below it, so the subtree of row `r` is `r + 1 .. r + 1 + desc`.
//! `pdelta` is the distance up to the parent's row, 0 for a root or an orphan; `parent_span_id` is only written where
//! `pdelta` is 0 and there was one. A trace longer than [`TRACE_ROWS_MAX`] rows is cut into several row groups; in each
//! piece the rows whose parent stands in an earlier piece are orphans.
//!
//! Compatibility: a reader accepts every version up to [`VERSION`]; files of every released version are kept under
//! `testdata/` and must open for ever. A new version is needed when an old reader would give a wrong answer; new
//! columns, keys and parts behind the known ones are not.

/// The format version this code writes, and the newest it reads.
pub const VERSION: u16 = 1;

/// Rows of a row group, at most, unless a single trace is longer. 64k spans are about 3.5 MB, so that one request reads
/// a trace with everything around it; 256k would cost four times the bytes per trace lookup and save 0.4 bytes a span.
pub const ROW_GROUP_ROWS: u32 = 65_536;

/// Raw bytes of text in a row group, at most, unless a single trace has more: eight times what 64k ordinary spans have,
/// so that only senders of huge values see smaller row groups.
pub const ROW_GROUP_TEXT_BYTES: u64 = 64 << 20;

/// Rows of one trace in one row group, at most: five times the live limit per trace, so that only a trace assembled
/// from many late pieces is ever cut.
pub const TRACE_ROWS_MAX: u32 = 262_144;

/// Rows of a data page: the unit of decoding for a trace lookup. 20,000 would save 0.3 bytes a span and double the work
/// per trace.
pub const PAGE_ROWS: u32 = 8_192;

/// Attribute columns of a block, at most: the knee of bytes per span (52.9 at 64; 55.9 at 32; 54.0 at 127).
pub const ATTRIBUTE_COLUMNS_MAX: usize = 64;

/// One in this many spans must have an attribute for a column of its own: 0.5 %. Below that the column's metadata and
/// levels cost more than its place in the tail.
pub const PRESENCE_FLOOR_DIVISOR: u64 = 200;

/// One in this many spans has the attribute: then its ids are stored uncompressed, because scans will want them.
pub(crate) const HOT_DIVISOR: u64 = 10;

/// zstd level of everything compressed; level 3 saves 0.3 bytes a span and costs a third of the encoding.
pub(crate) const ZSTD_LEVEL: i32 = 1;

/// A dictionary is given up when more than three quarters of the values are distinct.
pub(crate) fn dictionary_pays(values: usize, distinct: usize) -> bool {
    distinct * 4 <= values * 3 || values < 64
}

/// Numbers are eight bytes before compression and their dictionary is decoded for every scan, so it must be small.
pub(crate) fn number_dictionary_pays(values: usize, distinct: usize) -> bool {
    distinct * 4 <= values || values < 64
}

/// Distinct values per 64k rows from which a text column counts as id-like and gets a filter … A request's id stands in
/// every span of its trace, so 64k spans have some two thousand of them; a filter costs ten bits per distinct value, so
/// choosing a column too many costs next to nothing.
pub(crate) const ID_LIKE_DISTINCT: u64 = 1_024;
/// … if its values are at most this long on average: longer text is not looked up whole.
pub(crate) const ID_LIKE_MEAN_BYTES: u64 = 64;
/// Bits per key of the trace-id filter: 0.1 %, one block in a thousand is opened for nothing.
pub(crate) const TRACE_FILTER_BITS: f64 = 16.9;
/// Bits per key of attribute filters: 1 %.
pub(crate) const VALUE_FILTER_BITS: f64 = 10.5;
/// One part in this many of the row groups' bytes may go to attribute filters: 1.5 %.
pub(crate) const VALUE_FILTER_DIVISOR: u64 = 66;

/// Distinct values of a key that the catalogue lists whole, and their bytes together. Names people choose from a menu.
pub const CATALOGUE_VALUES_MAX: usize = 256;
/// See [`CATALOGUE_VALUES_MAX`].
pub const CATALOGUE_VALUE_BYTES_MAX: usize = 16 << 10;
/// Keys the catalogue describes; the rest are counted. The same bound as the live table's columns.
pub const CATALOGUE_KEYS_MAX: usize = 4_096;
/// Values of all keys together.
pub const CATALOGUE_BYTES_MAX: usize = 1 << 20;

/// Decompressed bytes of one index part that a reader accepts: 64 row groups need about 1 MiB, so this is a block of
/// a hundred million spans.
pub(crate) const PART_BYTES_MAX: u32 = 256 << 20;

/// Decompressed bytes per stored byte of an index part beyond the first MiB: page lists reach about ten.
const PART_RATIO_MAX: u64 = 256;

/// Whether a part of `stored` bytes may claim to be `plain` bytes long: a bomb may not.
pub(crate) fn part_is_sane(stored: usize, plain: u32) -> bool {
    plain <= PART_BYTES_MAX && u64::from(plain) <= (1 << 20) + stored as u64 * PART_RATIO_MAX
}

/// Columns of a block that a reader accepts.
pub(crate) const COLUMNS_MAX: usize = 1_024;

/// Row groups of one section, at most.
pub(crate) const ROW_GROUPS_MAX: usize = 65_536;

/// Marks an index section.
pub(crate) const INDEX_MAGIC: [u8; 4] = *b"VBIX";
/// Marks a bloom section.
pub(crate) const BLOOM_MAGIC: [u8; 4] = *b"VBLM";
/// Bytes of an index section's head.
pub(crate) const INDEX_HEAD_BYTES: usize = 8 + 4 * 16 + 4;
/// The footer key under which the sections are named.
pub const FOOTER_KEY: &str = "vivace.block";

const _: () = assert!(ROW_GROUP_ROWS.is_multiple_of(PAGE_ROWS) && TRACE_ROWS_MAX >= ROW_GROUP_ROWS);

/// Duration buckets: every power of two, eight steps per octave from a microsecond up, and the round numbers people
/// type (1, 2, 3, 5 times a power of ten), so that a comparison with one of them is decided by the bucket alone.
pub mod duration {
    use std::sync::LazyLock;

    /// Lower edges in nanoseconds, ascending, the first is 0.
    static EDGES: LazyLock<Vec<u64>> = LazyLock::new(|| {
        let mut edges = vec![0];
        for octave in 0..=62u32 {
            let base = 1u64 << octave;
            edges.push(base);
            if (10..44).contains(&octave) {
                edges.extend((1..8).map(|step| base + (base >> 3) * step));
            }
        }
        for power in 0..=15u32 {
            edges.extend([1, 2, 3, 5].map(|digit| digit * 10u64.pow(power)));
        }
        edges.sort_unstable();
        edges.dedup();
        edges
    });

    /// For every octave and eighth, the last edge at or below its start.
    static STARTS: LazyLock<Vec<u16>> = LazyLock::new(|| {
        (0..64 * 8u64)
            .map(|i| {
                let (octave, step) = (i / 8, i % 8);
                let start = (1u64 << octave) + (((1u128 << octave) * u128::from(step)) >> 3) as u64;
                (EDGES.partition_point(|e| *e <= start) - 1) as u16
            })
            .collect()
    });

    /// The bucket of a duration; negative ones share bucket 0 with zero.
    pub fn bucket(nanos: i64) -> u16 {
        let Ok(nanos @ 1..) = u64::try_from(nanos) else {
            return 0;
        };
        let octave = 63 - nanos.leading_zeros();
        let eighth = if octave >= 3 {
            (nanos >> (octave - 3)) & 7
        } else {
            (nanos << (3 - octave)) & 7
        };
        let mut at = STARTS[(octave * 8) as usize + eighth as usize];
        while EDGES.get(usize::from(at) + 1).is_some_and(|edge| *edge <= nanos) {
            at += 1;
        }
        at
    }

    /// Lower edge (inclusive) and upper edge (exclusive, `None` for the last) of a bucket, in nanoseconds. Bucket 0 also
    /// holds everything negative.
    pub fn bounds(bucket: u16) -> (u64, Option<u64>) {
        let lower = EDGES.get(usize::from(bucket)).copied().unwrap_or(u64::MAX);
        (lower, EDGES.get(usize::from(bucket) + 1).copied())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_duration_lies_between_its_buckets_edges() {
            let mut probes: Vec<i64> = EDGES
                .iter()
                .flat_map(|e| [e - (*e > 0) as u64, *e, e + 1])
                .map(u64::cast_signed)
                .collect();
            probes.extend([7_777, 123_456_789, 99_999_999, 100_000_000, 100_000_001, i64::MAX]);
            for nanos in probes {
                let (lower, upper) = bounds(bucket(nanos));
                assert!(lower <= nanos.cast_unsigned(), "{nanos}");
                assert!(upper.is_none_or(|u| nanos.cast_unsigned() < u), "{nanos}");
            }
            assert_eq!([bucket(0), bucket(-5), bucket(i64::MIN)], [0; 3]);
            assert!(EDGES.len() < 512);
        }

        #[test]
        fn round_numbers_are_edges() {
            for ms in [1u64, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000] {
                assert_eq!(bounds(bucket((ms * 1_000_000).cast_signed())).0, ms * 1_000_000);
            }
        }
    }
}
