//! The bytes of commands and of the whole catalog: a format byte, then protobuf fields without a schema file.
//!
//! Fields are only ever added, with new numbers; a reader passes over those it does not know, so a newer leader may send
//! an older follower more than it needs. What changes the meaning of a command gets a new command, and the ring's feature
//! level keeps it from being proposed before every node knows it. Equal values have equal bytes: fields are written in
//! order and maps are sorted.

use std::sync::Arc;

use model::proto::{Entry, Fields, Malformed, write_bytes, write_fixed64, write_varint_field};
use model::{BlockId, Generation, InvalidTenant, LogIndex, ShardId, TenantId, TraceId};

use super::view::LiveObject;
use super::{
    BlockRecord, ByteRange, CatalogView, Command, DeleteReason, GroupKey, LogRange, ObjectId, ObjectRecord,
    PendingObject, SplitTraces, TraceIndexRecord,
};

const FORMAT: u8 = 1;

/// Why bytes are not a command or a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not even well-formed fields.
    #[error("malformed")]
    Malformed(#[from] Malformed),
    /// Written by a newer program.
    #[error("format {found} is newer than {FORMAT}")]
    Format { found: u8 },
    /// Nothing at all.
    #[error("empty")]
    Empty,
    /// A required field is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds what no version wrote.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// A tenant name that the door would have refused.
    #[error("bad tenant name")]
    Tenant(#[from] InvalidTenant),
    /// A catalog that contradicts itself.
    #[error("catalog is inconsistent: {0}")]
    Inconsistent(&'static str),
}

type Result<T> = std::result::Result<T, DecodeError>;

impl Command {
    /// The command as it is proposed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::AddBlock {
                group,
                from,
                to,
                object,
                records,
            } => message(&mut out, 1, |out| {
                put_range(
                    out,
                    &LogRange {
                        group: *group,
                        from: *from,
                        to: *to,
                    },
                );
                if let Some(object) = object {
                    message(out, 5, |out| put_object(out, object));
                }
                for record in records {
                    message(out, 6, |out| put_block(out, record));
                }
            }),
            Self::Replace { old, objects, records } => message(&mut out, 2, |out| {
                put_ids(out, 1, old);
                for object in objects {
                    message(out, 2, |out| put_object(out, object));
                }
                for record in records {
                    message(out, 3, |out| put_block(out, record));
                }
            }),
            Self::Delete { ids, reason } => message(&mut out, 3, |out| {
                put_ids(out, 1, ids);
                write_varint_field(out, 2, reason_number(*reason));
            }),
            Self::ForgetObject { object } => message(&mut out, 4, |out| put_id(out, 1, object.0)),
            Self::Announce { object } => message(&mut out, 6, |out| put_id(out, 1, object.0)),
            Self::Withdraw { objects } => message(&mut out, 7, |out| {
                put_ids(out, 1, &objects.iter().map(|object| object.0).collect::<Vec<_>>());
            }),
            Self::PutTraceIndex { tenant, old, new } => message(&mut out, 5, |out| {
                write_bytes(out, 1, tenant.as_str().as_bytes());
                let old: Vec<BlockId> = old.iter().map(|object| object.0).collect();
                put_ids(out, 2, &old);
                if let Some(new) = new {
                    message(out, 3, |out| put_index(out, new));
                }
            }),
        }
        out
    }

    /// The reverse of [`Command::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut command = None;
        each(body(bytes)?, |entry| {
            command = match entry.number {
                1 => Some(get_add_block(entry.bytes()?)?),
                2 => Some(get_replace(entry.bytes()?)?),
                3 => Some(get_delete(entry.bytes()?)?),
                4 => Some(Command::ForgetObject {
                    object: get_object_id(entry.bytes()?)?,
                }),
                5 => Some(get_put_index(entry.bytes()?)?),
                6 => Some(Command::Announce {
                    object: get_object_id(entry.bytes()?)?,
                }),
                7 => Some(get_withdraw(entry.bytes()?)?),
                _ => return Ok(()),
            };
            Ok(())
        })?;
        // Also what an unknown command looks like: a member that cannot apply it must not go on as if it had.
        command.ok_or(DecodeError::Missing("command"))
    }
}

fn reason_number(reason: DeleteReason) -> u64 {
    match reason {
        DeleteReason::Retention => 1,
        DeleteReason::TenantRemoved => 2,
        DeleteReason::Operator => 3,
    }
}

fn get_add_block(bytes: &[u8]) -> Result<Command> {
    let range = get_range(bytes)?;
    let (mut object, mut records) = (None, Vec::new());
    each(bytes, |entry| {
        match entry.number {
            5 => object = Some(get_object(entry.bytes()?)?),
            6 => records.push(get_block(entry.bytes()?)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Command::AddBlock {
        group: range.group,
        from: range.from,
        to: range.to,
        object,
        records,
    })
}

fn get_replace(bytes: &[u8]) -> Result<Command> {
    let (mut old, mut objects, mut records) = (Vec::new(), Vec::new(), Vec::new());
    each(bytes, |entry| {
        match entry.number {
            1 => old = get_ids(entry)?,
            2 => objects.push(get_object(entry.bytes()?)?),
            3 => records.push(get_block(entry.bytes()?)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Command::Replace { old, objects, records })
}

fn get_delete(bytes: &[u8]) -> Result<Command> {
    let (mut ids, mut reason) = (Vec::new(), None);
    each(bytes, |entry| {
        match entry.number {
            1 => ids = get_ids(entry)?,
            2 => {
                reason = Some(match entry.varint()? {
                    1 => DeleteReason::Retention,
                    2 => DeleteReason::TenantRemoved,
                    3 => DeleteReason::Operator,
                    _ => return Err(DecodeError::OutOfRange("reason")),
                });
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(Command::Delete {
        ids,
        reason: reason.ok_or(DecodeError::Missing("reason"))?,
    })
}

fn get_object_id(bytes: &[u8]) -> Result<ObjectId> {
    let mut object = None;
    each(bytes, |entry| {
        if entry.number == 1 {
            object = Some(ObjectId(get_id(entry)?));
        }
        Ok(())
    })?;
    object.ok_or(DecodeError::Missing("object"))
}

fn get_withdraw(bytes: &[u8]) -> Result<Command> {
    let mut objects = Vec::new();
    each(bytes, |entry| {
        if entry.number == 1 {
            objects = get_ids(entry)?.into_iter().map(ObjectId).collect();
        }
        Ok(())
    })?;
    Ok(Command::Withdraw { objects })
}

fn get_put_index(bytes: &[u8]) -> Result<Command> {
    let (mut tenant, mut old, mut new) = (None, Vec::new(), None);
    each(bytes, |entry| {
        match entry.number {
            1 => tenant = Some(TenantId::new(&get_text(entry)?)?),
            2 => old = get_ids(entry)?.into_iter().map(ObjectId).collect(),
            3 => new = Some(get_index(entry.bytes()?)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Command::PutTraceIndex {
        tenant: tenant.ok_or(DecodeError::Missing("tenant"))?,
        old,
        new,
    })
}

/// The whole catalog.
pub(super) fn encode_view(view: &CatalogView) -> Vec<u8> {
    let mut out = vec![FORMAT];
    write_varint_field(&mut out, 1, view.revision);
    for (group, watermark) in &view.watermarks {
        message(&mut out, 2, |out| {
            put_group(out, *group);
            write_varint_field(out, 3, watermark.0);
        });
    }
    for live in view.objects.values() {
        message(&mut out, 3, |out| put_object(out, &live.record));
    }
    for blocks in view.tenants.values() {
        for record in blocks.iter() {
            message(&mut out, 4, |out| put_block(out, record));
        }
    }
    for pending in view.pending.values() {
        message(&mut out, 5, |out| {
            message(out, 1, |out| put_object(out, &pending.object));
            write_fixed64(out, 2, pending.not_before_unix_nanos);
        });
    }
    for index in view.tenants.values().flat_map(|blocks| blocks.indexes.values()) {
        message(&mut out, 6, |out| put_index(out, index));
    }
    if !view.announced.is_empty() {
        put_ids(
            &mut out,
            7,
            &view.announced().map(|object| object.0).collect::<Vec<_>>(),
        );
    }
    out
}

/// The reverse of [`encode_view`]; objects come before the blocks that are in them.
pub(super) fn decode_view(bytes: &[u8]) -> Result<CatalogView> {
    let mut view = CatalogView::default();
    each(body(bytes)?, |entry| {
        match entry.number {
            1 => view.revision = entry.varint()?,
            2 => {
                let (group, watermark) = get_watermark(entry.bytes()?)?;
                view.watermarks.insert(group, watermark);
            }
            3 => {
                let record = Arc::new(get_object(entry.bytes()?)?);
                view.objects.insert(record.id, LiveObject { record, blocks: 0 });
            }
            4 => {
                let record = get_block(entry.bytes()?)?;
                if !view.objects.contains_key(&record.object) {
                    return Err(DecodeError::Inconsistent("a block without object"));
                }
                if view.tenant_of.contains_key(&record.id) {
                    return Err(DecodeError::Inconsistent("a block twice"));
                }
                view.add(record);
            }
            5 => {
                let pending = get_pending(entry.bytes()?)?;
                view.pending.insert(pending.object.id, pending);
            }
            6 => {
                let index = get_index(entry.bytes()?)?;
                if !view.tenants.contains_key(&index.tenant) {
                    return Err(DecodeError::Inconsistent("a trace index without blocks"));
                }
                if view.index_tenants.contains_key(&index.object.id) {
                    return Err(DecodeError::Inconsistent("a trace index twice"));
                }
                view.add_index(index);
            }
            7 => view.announced.extend(get_ids(entry)?.into_iter().map(ObjectId)),
            _ => {}
        }
        Ok(())
    })?;
    if view.announced().any(|object| view.knows_object(object)) {
        return Err(DecodeError::Inconsistent("an object that is announced and named"));
    }
    if view.objects.values().any(|live| live.blocks == 0) {
        return Err(DecodeError::Inconsistent("an object without blocks"));
    }
    Ok(view)
}

fn get_watermark(bytes: &[u8]) -> Result<(GroupKey, LogIndex)> {
    let mut watermark = LogIndex(0);
    each(bytes, |entry| {
        if entry.number == 3 {
            watermark = LogIndex(entry.varint()?);
        }
        Ok(())
    })?;
    Ok((get_group(bytes)?, watermark))
}

fn get_pending(bytes: &[u8]) -> Result<PendingObject> {
    let (mut object, mut not_before_unix_nanos) = (None, 0);
    each(bytes, |entry| {
        match entry.number {
            1 => object = Some(Arc::new(get_object(entry.bytes()?)?)),
            2 => not_before_unix_nanos = entry.fixed64()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(PendingObject {
        object: object.ok_or(DecodeError::Missing("object"))?,
        not_before_unix_nanos,
    })
}

// The parts. A message's fields are numbered from 1 in the order of the struct.

fn put_group(out: &mut Vec<u8>, group: GroupKey) {
    write_varint_field(out, 1, u64::from(group.shard.0));
    write_varint_field(out, 2, group.generation.0);
}

fn get_group(bytes: &[u8]) -> Result<GroupKey> {
    let (mut shard, mut generation) = (None, None);
    each(bytes, |entry| {
        match entry.number {
            1 => shard = Some(ShardId(get_u32(entry, "shard")?)),
            2 => generation = Some(Generation(entry.varint()?)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(GroupKey {
        shard: shard.ok_or(DecodeError::Missing("shard"))?,
        generation: generation.ok_or(DecodeError::Missing("generation"))?,
    })
}

fn put_range(out: &mut Vec<u8>, range: &LogRange) {
    put_group(out, range.group);
    write_varint_field(out, 3, range.from.0);
    write_varint_field(out, 4, range.to.0);
}

fn get_range(bytes: &[u8]) -> Result<LogRange> {
    let (mut from, mut to) = (LogIndex(0), LogIndex(0));
    each(bytes, |entry| {
        match entry.number {
            3 => from = LogIndex(entry.varint()?),
            4 => to = LogIndex(entry.varint()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(LogRange {
        group: get_group(bytes)?,
        from,
        to,
    })
}

fn put_bytes_range(out: &mut Vec<u8>, number: u32, range: ByteRange) {
    message(out, number, |out| {
        write_varint_field(out, 1, range.offset);
        write_varint_field(out, 2, range.length);
    });
}

fn get_bytes_range(entry: &Entry<'_>) -> Result<ByteRange> {
    let mut range = ByteRange::default();
    each(entry.bytes()?, |entry| {
        match entry.number {
            1 => range.offset = entry.varint()?,
            2 => range.length = entry.varint()?,
            _ => {}
        }
        Ok(())
    })?;
    range.end().ok_or(DecodeError::OutOfRange("byte range"))?;
    Ok(range)
}

fn put_object(out: &mut Vec<u8>, object: &ObjectRecord) {
    put_id(out, 1, object.id.0);
    write_bytes(out, 2, object.path.as_bytes());
    write_varint_field(out, 3, object.bytes);
    put_bytes_range(out, 4, object.footer);
    write_fixed64(out, 5, object.checksum);
    if let Some(etag) = &object.etag {
        write_bytes(out, 6, etag.as_bytes());
    }
}

fn get_object(bytes: &[u8]) -> Result<ObjectRecord> {
    let (mut id, mut path, mut etag) = (None, None, None);
    let (mut length, mut footer, mut checksum) = (0, ByteRange::default(), 0);
    each(bytes, |entry| {
        match entry.number {
            1 => id = Some(ObjectId(get_id(entry)?)),
            2 => path = Some(get_text(entry)?),
            3 => length = entry.varint()?,
            4 => footer = get_bytes_range(entry)?,
            5 => checksum = entry.fixed64()?,
            6 => etag = Some(get_text(entry)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(ObjectRecord {
        id: id.ok_or(DecodeError::Missing("object id"))?,
        path: path.ok_or(DecodeError::Missing("path"))?,
        bytes: length,
        footer,
        checksum,
        etag,
    })
}

fn put_index(out: &mut Vec<u8>, index: &TraceIndexRecord) {
    write_bytes(out, 1, index.tenant.as_str().as_bytes());
    message(out, 2, |out| put_object(out, &index.object));
    write_varint_field(out, 3, u64::from(index.blocks));
    write_varint_field(out, 4, index.entries);
}

fn get_index(bytes: &[u8]) -> Result<TraceIndexRecord> {
    let (mut tenant, mut object, mut blocks, mut entries) = (None, None, 0, 0);
    each(bytes, |entry| {
        match entry.number {
            1 => tenant = Some(TenantId::new(&get_text(entry)?)?),
            2 => object = Some(get_object(entry.bytes()?)?),
            3 => blocks = get_u32(entry, "blocks")?,
            4 => entries = entry.varint()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(TraceIndexRecord {
        tenant: tenant.ok_or(DecodeError::Missing("tenant"))?,
        object: object.ok_or(DecodeError::Missing("object"))?,
        blocks,
        entries,
    })
}

fn put_block(out: &mut Vec<u8>, block: &BlockRecord) {
    put_id(out, 1, block.id);
    write_bytes(out, 2, block.tenant.as_str().as_bytes());
    put_id(out, 3, block.object.0);
    write_varint_field(out, 4, u64::from(block.row_groups.start));
    write_varint_field(out, 5, u64::from(block.row_groups.end));
    put_bytes_range(out, 6, block.bloom);
    put_bytes_range(out, 7, block.index);
    write_varint_field(out, 8, block.bytes);
    write_varint_field(out, 9, block.spans);
    write_varint_field(out, 10, block.traces);
    write_fixed64(out, 11, block.min_unix_nanos);
    write_fixed64(out, 12, block.max_unix_nanos);
    write_bytes(out, 13, &block.min_trace.0);
    write_bytes(out, 14, &block.max_trace.0);
    write_varint_field(out, 15, u64::from(block.level));
    match &block.split_traces {
        SplitTraces::Listed(traces) => {
            let ids: Vec<u8> = traces.iter().flat_map(|trace| trace.0).collect();
            write_bytes(out, 16, &ids);
        }
        SplitTraces::All => write_varint_field(out, 17, 1),
    }
    if let Some(source) = &block.source {
        message(out, 18, |out| put_range(out, source));
    }
    write_fixed64(out, 19, block.created_unix_nanos);
}

fn get_block(bytes: &[u8]) -> Result<BlockRecord> {
    let (mut id, mut tenant, mut object, mut source) = (None, None, None, None);
    let mut row_groups = 0..0;
    let (mut bloom, mut index) = (ByteRange::default(), ByteRange::default());
    let (mut length, mut spans, mut traces, mut level) = (0, 0, 0, 0);
    let (mut min_unix_nanos, mut max_unix_nanos, mut created_unix_nanos) = (0, 0, 0);
    let (mut min_trace, mut max_trace) = (TraceId::default(), TraceId::default());
    let mut split_traces = SplitTraces::default();
    each(bytes, |entry| {
        match entry.number {
            1 => id = Some(get_id(entry)?),
            2 => tenant = Some(TenantId::new(&get_text(entry)?)?),
            3 => object = Some(ObjectId(get_id(entry)?)),
            4 => row_groups.start = get_u32(entry, "row group")?,
            5 => row_groups.end = get_u32(entry, "row group")?,
            6 => bloom = get_bytes_range(entry)?,
            7 => index = get_bytes_range(entry)?,
            8 => length = entry.varint()?,
            9 => spans = entry.varint()?,
            10 => traces = entry.varint()?,
            11 => min_unix_nanos = entry.fixed64()?,
            12 => max_unix_nanos = entry.fixed64()?,
            13 => min_trace = get_trace(entry)?,
            14 => max_trace = get_trace(entry)?,
            15 => level = u8::try_from(entry.varint()?).map_err(|_| DecodeError::OutOfRange("level"))?,
            16 => split_traces = SplitTraces::Listed(get_traces(entry)?),
            17 => split_traces = SplitTraces::All,
            18 => source = Some(get_range(entry.bytes()?)?),
            19 => created_unix_nanos = entry.fixed64()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(BlockRecord {
        id: id.ok_or(DecodeError::Missing("block id"))?,
        tenant: tenant.ok_or(DecodeError::Missing("tenant"))?,
        object: object.ok_or(DecodeError::Missing("object"))?,
        row_groups,
        bloom,
        index,
        bytes: length,
        spans,
        traces,
        min_unix_nanos,
        max_unix_nanos,
        min_trace,
        max_trace,
        level,
        split_traces,
        source,
        created_unix_nanos,
    })
}

fn get_trace(entry: &Entry<'_>) -> Result<TraceId> {
    let id = entry
        .bytes()?
        .try_into()
        .map_err(|_| DecodeError::OutOfRange("trace id"))?;
    Ok(TraceId(id))
}

fn get_traces(entry: &Entry<'_>) -> Result<Arc<[TraceId]>> {
    let (ids, rest) = entry.bytes()?.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(DecodeError::OutOfRange("trace ids"));
    }
    Ok(ids.iter().map(|id| TraceId(*id)).collect())
}

fn put_id(out: &mut Vec<u8>, number: u32, id: BlockId) {
    write_bytes(out, number, &id.0.to_be_bytes());
}

fn get_id(entry: &Entry<'_>) -> Result<BlockId> {
    let id = entry.bytes()?.try_into().map_err(|_| DecodeError::OutOfRange("id"))?;
    Ok(BlockId(u128::from_be_bytes(id)))
}

fn put_ids(out: &mut Vec<u8>, number: u32, ids: &[BlockId]) {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0.to_be_bytes()).collect();
    write_bytes(out, number, &bytes);
}

fn get_ids(entry: &Entry<'_>) -> Result<Vec<BlockId>> {
    let (ids, rest) = entry.bytes()?.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(DecodeError::OutOfRange("ids"));
    }
    Ok(ids.iter().map(|id| BlockId(u128::from_be_bytes(*id))).collect())
}

fn get_u32(entry: &Entry<'_>, what: &'static str) -> Result<u32> {
    u32::try_from(entry.varint()?).map_err(|_| DecodeError::OutOfRange(what))
}

fn get_text(entry: &Entry<'_>) -> Result<Arc<str>> {
    let text = std::str::from_utf8(entry.bytes()?).map_err(|_| Malformed::Utf8(entry.number))?;
    Ok(Arc::from(text))
}

fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    write_bytes(out, number, &inner);
}

fn each(bytes: &[u8], mut take: impl FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
    let mut fields = Fields::new(bytes);
    while let Some(entry) = fields.next_field()? {
        take(&entry)?;
    }
    Ok(())
}

fn body(bytes: &[u8]) -> Result<&[u8]> {
    match bytes {
        [] => Err(DecodeError::Empty),
        [FORMAT, body @ ..] => Ok(body),
        [found, ..] => Err(DecodeError::Format { found: *found }),
    }
}
