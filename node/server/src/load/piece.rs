//! Protobuf that remembers where its changing parts are.
//!
//! Owns [`Piece`] and [`Patch`]. Everything that differs between two copies of a template has a fixed width (ids,
//! times, hex text), so lengths never change and a copy is a `memcpy` and a few writes at known places.

use model::proto::{write_bytes, write_fixed64, write_varint, write_varint_field};

/// A changing part of an encoded message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) at: u32,
    pub(crate) what: Change,
}

/// What is written over a changing part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// 16 bytes: the id of the trace with this number.
    TraceId(u32),
    /// 8 bytes: the id of the span with this number.
    SpanId(u32),
    /// 8 bytes: this many nanoseconds after the base time.
    Time(u64),
    /// 16 hex digits that no other copy has, derived from this number.
    Unique(u32),
}

/// A message under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) patches: Vec<Patch>,
}

impl Piece {
    pub(crate) fn text(&mut self, number: u32, value: &str) {
        write_bytes(&mut self.bytes, number, value.as_bytes());
    }

    pub(crate) fn varint(&mut self, number: u32, value: u64) {
        write_varint_field(&mut self.bytes, number, value);
    }

    pub(crate) fn double(&mut self, number: u32, value: f64) {
        write_fixed64(&mut self.bytes, number, value.to_bits());
    }

    pub(crate) fn fixed32(&mut self, number: u32, value: u32) {
        model::proto::write_fixed32(&mut self.bytes, number, value);
    }

    pub(crate) fn time(&mut self, number: u32, after_base_nanos: u64) {
        // Zero is what protobuf leaves out; the patch overwrites the placeholder anyway.
        write_fixed64(&mut self.bytes, number, u64::MAX);
        self.patch_last(8, Change::Time(after_base_nanos));
    }

    pub(crate) fn trace_id(&mut self, number: u32, trace: u32) {
        write_bytes(&mut self.bytes, number, &[0xff; 16]);
        self.patch_last(16, Change::TraceId(trace));
    }

    pub(crate) fn span_id(&mut self, number: u32, span: u32) {
        write_bytes(&mut self.bytes, number, &[0xff; 8]);
        self.patch_last(8, Change::SpanId(span));
    }

    pub(crate) fn unique_text(&mut self, number: u32, unique: u32) {
        write_bytes(&mut self.bytes, number, &[b'0'; 16]);
        self.patch_last(16, Change::Unique(unique));
    }

    /// Appends `inner` as a length-delimited field and takes over its patches.
    pub(crate) fn message(&mut self, number: u32, inner: &Self) {
        write_varint(&mut self.bytes, u64::from(number) << 3 | 2);
        write_varint(&mut self.bytes, inner.bytes.len() as u64);
        self.append(inner);
    }

    /// Appends as is: protobuf messages may be concatenated.
    pub(crate) fn append(&mut self, inner: &Self) {
        let by = self.end();
        self.bytes.extend_from_slice(&inner.bytes);
        self.patches.extend(inner.patches.iter().map(|patch| Patch {
            at: patch.at + by,
            ..*patch
        }));
    }

    fn patch_last(&mut self, width: u32, what: Change) {
        self.patches.push(Patch {
            at: self.end() - width,
            what,
        });
    }

    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a template request is far smaller than 4 GiB")
    }
}

/// What makes one copy of the templates differ from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Mixed into every id; differs for each copy and seed.
    pub(crate) salt: u64,
    /// Times in the copy are this plus what the template says.
    pub(crate) base_unix_nanos: u64,
}

impl Copy {
    pub(crate) fn trace_id(self, trace: u32) -> [u8; 16] {
        let high = mix(self.salt ^ u64::from(trace).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // The last bit is set so that neither half can be zero, which would be no id at all.
        let low = mix(high ^ self.salt) | 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&high.to_be_bytes());
        id[8..].copy_from_slice(&low.to_be_bytes());
        id
    }

    pub(crate) fn span_id(self, span: u32) -> [u8; 8] {
        (mix(self.salt.rotate_left(32) ^ u64::from(span).wrapping_mul(0xd1b5_4a32_d192_ed03)) | 1).to_be_bytes()
    }

    /// Writes everything that changes into `bytes`, which is a copy of the template.
    pub(crate) fn apply(self, patches: &[Patch], bytes: &mut [u8]) {
        for patch in patches {
            let at = patch.at as usize;
            match patch.what {
                Change::TraceId(trace) => bytes[at..at + 16].copy_from_slice(&self.trace_id(trace)),
                Change::SpanId(span) => bytes[at..at + 8].copy_from_slice(&self.span_id(span)),
                Change::Time(after) => {
                    bytes[at..at + 8].copy_from_slice(&(self.base_unix_nanos + after).to_le_bytes());
                }
                Change::Unique(number) => {
                    bytes[at..at + 16].copy_from_slice(&hex16(mix(self.salt ^ u64::from(number) << 20)));
                }
            }
        }
    }
}

/// The finaliser of SplitMix64: a bijection that scatters neighbouring numbers.
pub(crate) fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn hex16(value: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|place| DIGITS[(value >> (60 - 4 * place) & 15) as usize])
}
