//! One door for the fuzzer to everything that reads bytes of an object.
//!
//! Checksums would turn every mutation away at the first look, so the decoders behind them are entered directly: the
//! oracle is that none panics, loops or allocates beyond its bounds.

use std::sync::Arc;

use crate::decode::Chunk;
use crate::format::PAGE_ROWS;
use crate::index::{BlockIndex, fuzz_parts, read_chunk};
use crate::page::crc32;
use crate::schema::Form;
use crate::section::read_filters;

/// Feeds `data` to the reading side. The first byte picks the door.
pub fn fuzz_open(data: &[u8]) {
    let Some((door, rest)) = data.split_first() else { return };
    let object: Arc<str> = "fuzz".into();
    match door % 4 {
        0 => drop(BlockIndex::open_any(&object, 0, rest)),
        1 => drop(read_filters(rest)),
        2 => fuzz_parts(rest),
        _ => chunk(rest),
    }
}

/// `[form][rows low][rows high][length of the page list][page list][chunk bytes]`, page checksums made right.
fn chunk(data: &[u8]) {
    let [form, low, high, list, rest @ ..] = data else {
        return;
    };
    let Some((list, bytes)) = rest.split_at_checked(usize::from(*list)) else {
        return;
    };
    let Some(mut meta) = read_chunk(list) else { return };
    let forms = [
        Form::Fixed8,
        Form::Fixed16,
        Form::Int32,
        Form::Unsigned32,
        Form::Int64,
        Form::Double,
        Form::Bool,
        Form::Text,
        Form::Bytes,
    ];
    let rows = u32::from(*low) | u32::from(*high) << 8;
    let mut at = 0usize;
    for page in meta.dictionary.iter_mut().chain(&mut meta.pages) {
        let start = at.saturating_add(page.header as usize);
        at = start.saturating_add(page.stored as usize);
        page.crc = bytes.get(start..at).map_or(0, crc32);
        // The real bound is a gigabyte; the fuzzer's patience is shorter.
        page.plain = page.plain.min(1 << 20);
    }
    for optional in [false, true] {
        let form = forms[usize::from(*form) % forms.len()];
        let chunk = Chunk {
            meta: &meta,
            bytes,
            form,
            optional,
            rows,
        };
        if let Ok(decoded) = chunk.decode(0, rows.div_ceil(PAGE_ROWS) as usize) {
            let _ = decoded.numbers();
            let column = decoded.trim(rows / 3, rows / 2).into_column(form);
            let _ = column.view().values.len();
        }
    }
}
