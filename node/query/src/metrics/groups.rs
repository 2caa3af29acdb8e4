//! Which series each row of a chunk belongs to: numbers instead of labels, dictionary ids where the field has a dictionary.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use model::Value;
use model::column::{DictView, Rows, Values, slice_at};

use super::partial::GroupKey;
use crate::budget::BATCH;
use crate::engine::context::Context;
use crate::engine::physical::{Meaning, dict_value, value_at};
use crate::engine::read::{Group, Reader};
use crate::error::Result;
use crate::field::Field;
use crate::rowset::RowSet;
use crate::value::Static;

/// Stands for "no value".
const NIL: u32 = 0;

/// Stands for a value that no row had so far.
const NOT_MET: u32 = u32::MAX;

/// Group numbers of rows.
pub(super) enum Groups {
    /// All rows are in the one group.
    One,
    /// By row; rows that were not asked for have any number.
    Many(Vec<u32>),
}

impl Groups {
    #[inline]
    pub(super) fn of(&self, row: u32) -> u32 {
        match self {
            Groups::One => 0,
            Groups::Many(groups) => groups[row as usize],
        }
    }
}

/// The group of each row, and the key of each group.
pub(super) fn group_rows(ctx: &Context<'_>, by: &[Field], rows: &RowSet) -> Result<(Groups, Vec<GroupKey>)> {
    let Some((first, more)) = by.split_first() else {
        return Ok((Groups::One, vec![GroupKey(Vec::new())]));
    };
    let (mut groups, values) = code_rows(ctx, first, rows)?;
    let mut keys: Vec<GroupKey> = values.into_iter().map(|value| GroupKey(vec![value])).collect();
    for field in more {
        let (codes, values) = code_rows(ctx, field, rows)?;
        let mut pairs = Pairs::new(keys.len(), values.len());
        let mut combined: Vec<GroupKey> = Vec::new();
        for batch in rows.batches() {
            ctx.budget.check()?;
            batch.each(|row| {
                let pair = (groups[row as usize], codes[row as usize]);
                let slot = pairs.of(pair);
                if *slot == NO_GROUP {
                    *slot = combined.len() as u32;
                    let mut key = keys[pair.0 as usize].clone();
                    key.0.push(values[pair.1 as usize].clone());
                    combined.push(key);
                }
                groups[row as usize] = *slot;
            });
        }
        keys = combined;
    }
    Ok((Groups::Many(groups), keys))
}

/// Groups of pairs of codes: a table while that is small, else a map.
struct Pairs {
    table: Vec<u32>,
    width: usize,
    map: HashMap<(u32, u32), u32>,
}

/// No group yet.
const NO_GROUP: u32 = u32::MAX;
/// Entries of a table, 4 bytes each.
const PAIRS_MAX: usize = 1 << 18;

impl Pairs {
    fn new(first: usize, second: usize) -> Pairs {
        let entries = first.saturating_mul(second);
        Pairs {
            table: match entries {
                ..=PAIRS_MAX => vec![NO_GROUP; entries],
                _ => Vec::new(),
            },
            width: second,
            map: HashMap::new(),
        }
    }

    #[inline(always)]
    fn of(&mut self, (first, second): (u32, u32)) -> &mut u32 {
        match self.table.get_mut(first as usize * self.width + second as usize) {
            Some(slot) => slot,
            None => self.map.entry((first, second)).or_insert(NO_GROUP),
        }
    }
}

/// Numbers the values of a field: by row its value's number, and the values by number. Number 0 is nil.
fn code_rows(ctx: &Context<'_>, field: &Field, rows: &RowSet) -> Result<(Vec<u32>, Vec<Static>)> {
    let reader = Reader::new(ctx, field, None)?;
    let mut coder = Coder {
        texts: HashMap::new(),
        codes: BTreeMap::new(),
        values: vec![Static::Nil],
    };
    if let Reader::Columns { groups, missing } = &reader
        && groups.iter().all(|group| is_simple(ctx.rows, group))
    {
        let mut codes = vec![NIL; ctx.rows];
        for group in groups {
            code_group(ctx, group, &mut codes, &mut coder)?;
        }
        if *missing != Static::Nil {
            let code = coder.code(missing.clone());
            codes.iter_mut().filter(|c| **c == NIL).for_each(|c| *c = code);
        }
        return Ok((codes, coder.values));
    }
    let mut codes = vec![NIL; ctx.rows];
    for (i, row) in rows.iter().enumerate() {
        if i % BATCH == 0 {
            ctx.budget.check()?;
        }
        codes[row as usize] = coder.code(reader.read(ctx, row)?.value);
    }
    Ok((codes, coder.values))
}

struct Coder {
    /// Of texts, which are most.
    texts: HashMap<Arc<str>, u32>,
    /// Of other values.
    codes: BTreeMap<GroupKey, u32>,
    values: Vec<Static>,
}

impl Coder {
    fn code(&mut self, value: Static) -> u32 {
        let values = &mut self.values;
        let mut new = |value: Static| {
            values.push(value);
            values.len() as u32 - 1
        };
        match value {
            Static::Nil => NIL,
            Static::Str(text) => match self.texts.get(&text) {
                Some(code) => *code,
                None => {
                    let code = new(Static::Str(Arc::clone(&text)));
                    self.texts.insert(text, code);
                    code
                }
            },
            other => *self
                .codes
                .entry(GroupKey(vec![other.clone()]))
                .or_insert_with(|| new(other)),
        }
    }

    /// The code of a dictionary's entry; owners of many spans mostly have the few texts that are known already.
    fn code_of(&mut self, dict: &DictView<'_>, id: usize, meaning: Meaning) -> u32 {
        let text = match dict {
            DictView::Bytes { offsets, bytes } => std::str::from_utf8(slice_at(offsets, bytes, id)).ok(),
            DictView::Values(values) => match values.get(id) {
                Some(Some(Value::String(text))) => Some(text.as_str()),
                _ => None,
            },
        };
        match text.and_then(|text| self.texts.get(text)) {
            Some(code) => *code,
            None => self.code(dict_value(dict, id, meaning)),
        }
    }
}

/// Whether each row has at most one value, as far as the columns themselves show.
fn is_simple(rows: usize, group: &Group<'_>) -> bool {
    let mut taken = RowSet::empty(rows);
    let several = group.columns.len() > 1;
    group.columns.iter().all(|column| {
        let view = column.view();
        let single = match view.rows {
            Rows::All => !several,
            Rows::Sparse(at_rows) => {
                let repeats = at_rows.windows(2).any(|pair| pair[0] == pair[1]);
                // A span may carry one key twice, with values of two types.
                let shared = several && at_rows.iter().any(|row| taken.contains(*row));
                at_rows.iter().for_each(|row| taken.insert(*row));
                !repeats && !shared
            }
        };
        let lists = match view.values {
            Values::Raw { .. } => true,
            Values::Dict {
                dict: DictView::Values(values),
                ..
            } => values.iter().any(|value| matches!(value, Some(Value::Array(_)))),
            _ => false,
        };
        single && !lists
    })
}

/// The same for a column with a dictionary and a value in every row: each used entry is looked at once, when it is first
/// met.
fn code_dense(ids: &[u32], dict: &DictView<'_>, meaning: Meaning, codes: &mut [u32], coder: &mut Coder) {
    let mut by_id = vec![NOT_MET; dict.len()];
    for (code, id) in codes.iter_mut().zip(ids) {
        let known = by_id.get(*id as usize).copied().unwrap_or(NIL);
        let of_id = if known == NOT_MET {
            let new = coder.code_of(dict, *id as usize, meaning);
            by_id[*id as usize] = new;
            new
        } else {
            known
        };
        if *code == NIL {
            *code = of_id;
        }
    }
}

/// Fills in the codes of rows that have none yet.
fn code_group(ctx: &Context<'_>, group: &Group<'_>, codes: &mut [u32], coder: &mut Coder) -> Result<()> {
    for column in group.columns.iter() {
        let view = column.view();
        if let (Rows::All, Values::Dict { ids, dict }) = (view.rows, view.values)
            && codes.len() == ids.len()
        {
            ctx.budget.check()?;
            code_dense(ids, &dict, group.meaning, codes, coder);
            continue;
        }
        let mut by_id: Vec<Option<u32>> = match view.values {
            Values::Dict { dict, .. } => vec![None; dict.len()],
            _ => Vec::new(),
        };
        let mut by_int: HashMap<i64, u32> = HashMap::new();
        for at in 0..view.values.len() {
            if at % BATCH == 0 {
                ctx.budget.check()?;
            }
            let row = match view.rows {
                Rows::All => at,
                Rows::Sparse(rows) => rows[at] as usize,
            };
            if codes[row] != NIL {
                continue;
            }
            codes[row] = match view.values {
                Values::Dict { ids, dict } => match by_id.get_mut(ids[at] as usize) {
                    None => NIL,
                    Some(Some(code)) => *code,
                    Some(slot) => {
                        let code = coder.code_of(&dict, ids[at] as usize, group.meaning);
                        *slot = Some(code);
                        code
                    }
                },
                Values::Int(values) => *by_int
                    .entry(values[at])
                    .or_insert_with(|| coder.code(group.meaning.of_int(values[at]))),
                values => coder.code(value_at(&values, at, group.meaning)),
            };
        }
    }
    Ok(())
}
