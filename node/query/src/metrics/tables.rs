//! Tables in which durations are counted: by place and bucket of a quantile, by place and power of two.
//!
//! A place is a number that [`super::tally`] gives out. Where a table would be too large a map takes over; both give the
//! same.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::partial::Power;
use super::sketch::Sketch;
use super::weight::{ONE, mix};

/// Mixes one number: the keys are our own, nobody can choose them so that they collide.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Weights by place and bucket. The table counts spans that stand for themselves in the buckets that the chunk was said
/// to have; everything else goes into a map.
#[derive(Default)]
pub(super) struct Codes {
    /// The first bucket of every place, and how many there are.
    first: i32,
    width: usize,
    /// By place, then by bucket.
    table: Vec<u32>,
    map: HashMap<u64, u64, BuildHasherDefault<Mix>>,
}

/// Counts in a table: 8 MiB.
const TABLE_MAX: usize = 1 << 21;

impl Codes {
    /// With a table for so many places and the buckets `first..=last`, if that is not too large.
    pub(super) fn within(places: usize, first: i32, last: i32) -> Codes {
        let width = usize::try_from(i64::from(last) - i64::from(first) + 1).unwrap_or(0);
        if width.saturating_mul(places) > TABLE_MAX {
            return Codes::default();
        }
        Codes {
            first,
            width,
            table: vec![0; width * places],
            map: HashMap::default(),
        }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, place: u32, code: i32, weight: u64) {
        let at = code.wrapping_sub(self.first) as usize;
        if at < self.width
            && weight == ONE
            && let Some(count) = self.table.get_mut(place as usize * self.width + at)
        {
            *count += 1;
        } else {
            self.add_elsewhere(place, code, weight);
        }
    }

    #[inline(never)]
    fn add_elsewhere(&mut self, place: u32, code: i32, weight: u64) {
        let key = u64::from(place) << 32 | u64::from(code.cast_unsigned() ^ 1 << 31);
        *self.map.entry(key).or_default() += weight;
    }

    /// What the table holds of a place.
    pub(super) fn of_place(&self, place: usize) -> Option<Sketch> {
        let start = place * self.width;
        let counts = self.table.get(start..start + self.width)?;
        let used = counts.iter().filter(|count| **count > 0).count();
        if used == 0 {
            return None;
        }
        let mut sketch = Sketch::with_capacity(used);
        for (code, count) in (self.first..).zip(counts) {
            if *count > 0 {
                sketch.push_code(code, u64::from(*count) * ONE);
            }
        }
        Some(sketch)
    }

    /// Place, bucket, weight of what stands in no table; ascending.
    pub(super) fn others(&self) -> impl Iterator<Item = (u32, i32, u64)> {
        let mut rest: Vec<(u64, u64)> = self.map.iter().map(|(key, weight)| (*key, *weight)).collect();
        rest.sort_unstable();
        let of = |(key, weight): (u64, u64)| ((key >> 32) as u32, (key as u32 ^ 1 << 31).cast_signed(), weight);
        rest.into_iter().map(of)
    }
}

/// Weights of durations by place and power of two.
#[derive(Default)]
pub(super) struct Octaves {
    /// By place, then zeros, then by exponent.
    table: Vec<u64>,
}

/// Zeros, and the exponents 0 to 63.
const OCTAVES: usize = 65;
/// Places in the table: 2 MiB.
const OCTAVE_PLACES_MAX: usize = 4096;

impl Octaves {
    /// False if there is no room for the place.
    #[inline]
    pub(super) fn add(&mut self, place: u32, nanos: i64, weight: u64) -> bool {
        let bits = (nanos as f64).to_bits();
        // Rounded up to the next power of two, as a double.
        let exponent = (bits >> 52) as usize + usize::from(bits << 12 != 0);
        let octave = match nanos {
            0 => 0,
            _ => exponent - 1023 + 1,
        };
        let at = place as usize * OCTAVES + octave;
        if at >= self.table.len() {
            if place as usize >= OCTAVE_PLACES_MAX {
                return false;
            }
            self.table.resize((place as usize + 1) * OCTAVES, 0);
        }
        self.table[at] += weight;
        true
    }

    pub(super) fn of_place(&self, place: usize) -> impl Iterator<Item = (Power, u64)> {
        let weights = self.table.get(place * OCTAVES..(place + 1) * OCTAVES);
        let weights = weights.unwrap_or_default().iter().enumerate();
        weights.filter(|(_, weight)| **weight > 0).map(|(octave, weight)| {
            let power = Power {
                is_duration: true,
                exponent: octave.checked_sub(1).map(|exponent| exponent as i32),
            };
            (power, *weight)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Static;

    #[test]
    fn octaves_are_those_of_the_powers() {
        let mut all = vec![0, 1, 2, 3, i64::MAX, i64::MAX - 1];
        for bit in 1..63 {
            all.extend([(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        }
        for nanos in all {
            let mut octaves = Octaves::default();
            assert!(octaves.add(3, nanos, 7));
            let found: Vec<(Power, u64)> = octaves.of_place(3).collect();
            assert_eq!(found, [(Power::of(&Static::Duration(nanos)).unwrap(), 7)], "{nanos}");
        }
        assert!(!Octaves::default().add(OCTAVE_PLACES_MAX as u32, 1, 1));
    }

    #[test]
    fn table_and_map_hold_the_same() {
        let check = |mut codes: Codes| {
            for (place, code, weight) in [
                (0, 7, ONE),
                (1, 5, ONE),
                (1, 9, ONE),
                (1, 9, ONE),
                (1, 9, 3 * ONE),
                (1, -4, ONE),
                (2, 6, ONE),
            ] {
                codes.add(place, code, weight);
            }
            let mut sketches: Vec<Sketch> = (0..3).map(|place| codes.of_place(place).unwrap_or_default()).collect();
            codes
                .others()
                .for_each(|(place, code, weight)| sketches[place as usize].add_code(code, weight));
            sketches
        };
        let expected = check(Codes::default());
        assert_eq!(
            expected[1].codes().collect::<Vec<_>>(),
            [(-4, ONE), (5, ONE), (9, 5 * ONE)]
        );
        // Narrower than what comes, too few places, too large.
        for (places, first, last) in [(3, 5, 9), (3, 6, 8), (1, 5, 9), (3, 0, i32::MAX), (3, 9, 5)] {
            assert_eq!(
                check(Codes::within(places, first, last)),
                expected,
                "{places} {first} {last}"
            );
        }
    }
}
