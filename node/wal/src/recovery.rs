//! Opening a directory: what is there, what of it counts, what was lost.
//!
//! Which segments count: the newest header says which was the `oldest` live one when it was written. A segment is only
//! reused or removed after a newer header, on disk, moved `oldest` past it; so everything from there to the newest must
//! be present and whole, and everything before it is a spare whatever it contains. Segments that were freed since are
//! simply read again.
//!
//! Torn tail or corruption: `mark`, the highest position that any record of the last segment says was durable, decides
//! (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018). A bad record at or above it was
//! never acknowledged: the log is cut there. Below it, or in an older segment, it was: nothing is cut, and the groups
//! that may have lost something are named.
//!
//! After a failed sync the page cache may show bytes that never reached the disk. What lies above the mark is therefore
//! written once more and synced before anyone may build on it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::WalError;
use crate::format::{HeaderBlock, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::group::Releases;
use crate::options::WalOptions;
use crate::pool::{DAMAGED_SUFFIX, Pool, SEGMENT_SUFFIX, Spare, UNFINISHED_SUFFIX, create_segment, fill_with_zeros};
use crate::record::GroupKey;
use crate::replay::Replay;
use crate::scan::{Found, Scanned, Scanner};
use crate::state::{Recent, Segment, State};
use crate::vfs::{Vfs, VfsFile};

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// There was no log; this is a new one.
    pub created: bool,
    /// Segments read.
    pub segments: u64,
    /// Records read.
    pub records: u64,
    /// Where unacknowledged records were cut off; `None` when the log ended cleanly.
    pub torn_tail: Option<TornTail>,
    /// Where bytes that were durable are not what was written.
    pub damage: Vec<Damage>,
    /// Groups that may have lost something they promised to keep, oldest damage first found, also from earlier opens.
    pub lost_promises: Vec<LostPromise>,
}

/// Records above the durable mark that were not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    pub segment: u64,
    pub offset: u32,
}

/// Durable bytes that are bad or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// `None` for a file that no longer says which segment it was; it is set aside with the suffix `.damaged`.
    pub segment: Option<u64>,
    pub offset: u32,
    /// `None` for a missing file.
    pub path: Option<PathBuf>,
}

/// A group whose durable votes or entries may be gone: it must not vote or acknowledge again, since what it said before
/// may no longer be true. It stays so until it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPromise {
    pub group: GroupKey,
    pub segment: u64,
    pub offset: u32,
}

/// A segment file before anyone decided what it is good for.
struct Surveyed {
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    len: u64,
    /// `None` when both copies are bad.
    header: Option<SegmentHeader>,
    /// From the header, or failing that from the first record.
    sequence: Option<u64>,
}

/// The result of opening, before threads and handles.
pub(crate) struct Opened {
    pub(crate) state: State,
    pub(crate) recovery: Recovery,
    /// Groups whose loss was not known before.
    pub(crate) newly_lost: Vec<(GroupKey, Position)>,
    unfinished: Vec<PathBuf>,
    set_aside: Vec<PathBuf>,
}

/// Reads the directory. Refuses without touching anything when it is not ours; repairs the tail otherwise.
pub(crate) fn open_dir(vfs: &dyn Vfs, dir: &Path, options: &WalOptions) -> Result<Opened, WalError> {
    let (files, unfinished, next_file) = survey(vfs, dir, options.incarnation)?;
    let newest = files
        .iter()
        .filter_map(|file| file.sequence.filter(|sequence| *sequence > 0))
        .max();
    match newest {
        Some(newest) => Rebuild::new(dir, options, files, newest).run(unfinished, next_file),
        None if files.iter().any(|file| file.header.is_none()) => Err(WalError::Unreadable { dir: dir.to_owned() }),
        None => create(vfs, dir, options, files, unfinished, next_file),
    }
}

impl Opened {
    /// Takes the state out, once.
    pub(crate) fn take_state(&mut self) -> State {
        std::mem::replace(
            &mut self.state,
            new_state(BTreeMap::new(), Position::default(), Pool::default()),
        )
    }

    /// Tidies up, once everything else is safe.
    pub(crate) fn tidy(&self, vfs: &dyn Vfs, dir: &Path) -> Result<(), WalError> {
        for path in &self.unfinished {
            vfs.remove(path).map_err(|error| WalError::io("remove", path, error))?;
        }
        for path in &self.set_aside {
            let aside = path.with_extension(DAMAGED_SUFFIX.trim_start_matches('.'));
            vfs.rename(path, &aside)
                .map_err(|error| WalError::io("set aside", path, error))?;
        }
        vfs.sync_dir(dir).map_err(|error| WalError::io("sync", dir, error))
    }
}

type Survey = (Vec<Surveyed>, Vec<PathBuf>, u64);

fn survey(vfs: &dyn Vfs, dir: &Path, incarnation: u64) -> Result<Survey, WalError> {
    let mut files = Vec::new();
    let mut unfinished = Vec::new();
    let mut next_file = 0;
    for path in vfs.list(dir).map_err(|error| WalError::io("list", dir, error))? {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let Some(rest) = name.strip_prefix("segment-") else {
            continue;
        };
        let number = rest.split('.').next().and_then(|number| number.parse::<u64>().ok());
        next_file = next_file.max(number.unwrap_or(0));
        if name.ends_with(UNFINISHED_SUFFIX) {
            unfinished.push(path);
        } else if name.ends_with(SEGMENT_SUFFIX) {
            files.push(survey_file(vfs, path, incarnation)?);
        }
    }
    Ok((files, unfinished, next_file))
}

fn survey_file(vfs: &dyn Vfs, path: PathBuf, incarnation: u64) -> Result<Surveyed, WalError> {
    let io = |error| WalError::io("read", &path, error);
    let file = vfs.open(&path).map_err(io)?;
    let len = file.len().map_err(io)?;
    let mut block = vec![0; SEGMENT_HEADER_BYTES as usize + RECORD_HEADER_BYTES];
    let filled = file.read_at(&mut block, 0).map_err(io)?;
    block.truncate(filled);
    let (head, record) = block.split_at(filled.min(SEGMENT_HEADER_BYTES as usize));
    let (header, sequence) = match SegmentHeader::decode(head) {
        HeaderBlock::Newer(found) => {
            return Err(WalError::NewerFormat {
                path,
                found,
                supported: crate::format::FORMAT_VERSION,
            });
        }
        HeaderBlock::Ours(header) if header.incarnation != incarnation => {
            return Err(WalError::OtherIncarnation {
                path,
                found: header.incarnation,
                expected: incarnation,
            });
        }
        HeaderBlock::Ours(header) => (Some(header), Some(header.sequence)),
        // The first record knows; it was written after the header was durable.
        HeaderBlock::Damaged | HeaderBlock::Foreign if let Some(first) = RecordHeader::decode(record, incarnation) => {
            (None, Some(first.segment))
        }
        HeaderBlock::Damaged => (None, None),
        HeaderBlock::Foreign => return Err(WalError::NotOurs { path }),
    };
    Ok(Surveyed {
        path,
        file,
        len,
        header,
        sequence,
    })
}

/// Starts a new log with one segment; a crash in here leaves only spares.
fn create(
    vfs: &dyn Vfs,
    dir: &Path,
    options: &WalOptions,
    files: Vec<Surveyed>,
    unfinished: Vec<PathBuf>,
    next_file: u64,
) -> Result<Opened, WalError> {
    let mut pool = Pool {
        next_file,
        ..Pool::default()
    };
    for file in files {
        keep_or_remove(&mut pool, options, file);
    }
    let first = match pool.ready.pop_front() {
        Some(spare) => spare,
        None => {
            pool.next_file += 1;
            create_segment(vfs, dir, pool.next_file, options.incarnation, options.segment_bytes)
                .map_err(|error| WalError::io("create the first segment in", dir, error))?
        }
    };
    let header = SegmentHeader {
        incarnation: options.incarnation,
        sequence: 1,
        oldest: 1,
        previous_end: 0,
        capacity: first.capacity,
    };
    let written = first.file.write_vectored_at(&[IoSlice::new(&header.encode())], 0);
    written
        .and_then(|()| first.file.sync_data())
        .map_err(|error| WalError::io("write", &first.path, error))?;
    let end = SEGMENT_HEADER_BYTES;
    let segment = Segment {
        file: first.file,
        path: first.path,
        capacity: first.capacity,
        end,
        live: 0,
        opened: true,
    };
    let state = new_state(
        BTreeMap::from([(1, segment)]),
        Position {
            segment: 1,
            offset: end,
        },
        pool,
    );
    let recovery = Recovery {
        created: true,
        ..Recovery::default()
    };
    Ok(Opened {
        state,
        recovery,
        newly_lost: Vec::new(),
        unfinished,
        set_aside: Vec::new(),
    })
}

/// A whole file of the right size is a spare; any other is removed.
fn keep_or_remove(pool: &mut Pool, options: &WalOptions, file: Surveyed) {
    let capacity = options.segment_bytes;
    let fits = file.len == u64::from(capacity) && file.header.is_some_and(|header| header.capacity == capacity);
    let sequence = file.sequence.unwrap_or(0);
    let spare = Spare {
        file: file.file,
        path: file.path,
        capacity,
        sequence,
    };
    if fits {
        pool.ready.push_back(spare);
    } else {
        pool.surplus.push(spare);
    }
}

fn new_state(segments: BTreeMap<u64, Segment>, tail: Position, pool: Pool) -> State {
    State {
        groups: BTreeMap::new(),
        segments,
        tail,
        durable: tail,
        queue: VecDeque::new(),
        queue_bytes: 0,
        recent: Recent::default(),
        pool,
        poisoned: None,
        closing: false,
        wake: false,
        moving: None,
        writer: None,
        marked: tail,
    }
}

/// Reading an existing log.
struct Rebuild<'a> {
    dir: &'a Path,
    options: &'a WalOptions,
    live: BTreeMap<u64, Surveyed>,
    pool: Pool,
    set_aside: Vec<Surveyed>,
    oldest: u64,
    newest: u64,
    replay: Replay,
    recovery: Recovery,
}

impl<'a> Rebuild<'a> {
    /// Sorts the files by what they are good for.
    fn new(dir: &'a Path, options: &'a WalOptions, files: Vec<Surveyed>, newest: u64) -> Self {
        // A newest segment with a bad header cannot say what is oldest; the one before it can, if there is one.
        let best = files
            .iter()
            .filter_map(|file| file.header)
            .max_by_key(|header| header.sequence);
        let oldest = best
            .filter(|header| header.sequence > 0)
            .map_or(newest, |header| header.oldest.min(newest));
        let mut live = BTreeMap::new();
        let mut pool = Pool::default();
        let mut set_aside = Vec::new();
        for file in files {
            match file.sequence {
                None => set_aside.push(file),
                Some(sequence) if sequence >= oldest && !live.contains_key(&sequence) => {
                    live.insert(sequence, file);
                }
                Some(_) => keep_or_remove(&mut pool, options, file),
            }
        }
        let recovery = Recovery::default();
        Self {
            dir,
            options,
            live,
            pool,
            set_aside,
            oldest,
            newest,
            replay: Replay::default(),
            recovery,
        }
    }

    fn run(mut self, unfinished: Vec<PathBuf>, next_file: u64) -> Result<Opened, WalError> {
        let mut segments = BTreeMap::new();
        let mut tail = Position {
            segment: self.newest,
            offset: SEGMENT_HEADER_BYTES,
        };
        for sequence in self.oldest..=self.newest {
            let Some(file) = self.live.remove(&sequence) else {
                self.hole(Some(sequence), 0, None);
                continue;
            };
            self.recovery.segments += 1;
            if file.header.is_none() {
                self.hole(Some(sequence), 0, Some(&file.path));
            }
            let io = |error| WalError::io("read", &file.path, error);
            // A record needs room, so a file that is shorter than a header has none; it is made whole below.
            let capacity = file.header.map_or(self.options.segment_bytes, |header| header.capacity);
            let next = self.live.get(&(sequence + 1)).and_then(|next| next.header);
            let end = if sequence == self.newest {
                let end = self.last_segment(&file, sequence, capacity).map_err(io)?;
                if file.len < u64::from(capacity) {
                    // Segments never shrink by themselves: what was cut off may have been durable.
                    self.hole(Some(sequence), end, Some(&file.path));
                }
                tail.offset = end;
                end
            } else {
                let end = next.map(|next| next.previous_end);
                self.older_segment(&file, sequence, end, capacity).map_err(io)?
            };
            if file.len < u64::from(capacity) {
                fill_with_zeros(&*file.file, file.len, u64::from(capacity)).map_err(io)?;
            }
            segments.insert(
                sequence,
                Segment {
                    file: file.file,
                    path: file.path,
                    capacity,
                    end,
                    live: 0,
                    opened: true,
                },
            );
        }
        for file in std::mem::take(&mut self.set_aside) {
            self.hole(None, 0, Some(&file.path));
            self.set_aside.push(file);
        }
        self.pool.next_file = next_file;
        Ok(self.finish(segments, tail, unfinished))
    }

    fn finish(self, segments: BTreeMap<u64, Segment>, tail: Position, unfinished: Vec<PathBuf>) -> Opened {
        let mut recovery = self.recovery;
        recovery.records = self.replay.records;
        let (groups, newly_lost) = self.replay.finish();
        let known = groups
            .iter()
            .filter_map(|(key, group)| Some((*key, group.lost.as_ref()?.0)));
        recovery.lost_promises = known
            .chain(newly_lost.iter().copied())
            .map(|(group, at)| LostPromise {
                group,
                segment: at.segment,
                offset: at.offset,
            })
            .collect();
        if !recovery.lost_promises.is_empty() || !recovery.damage.is_empty() {
            tracing::error!(
                dir = %self.dir.display(),
                damage = recovery.damage.len(),
                lost_promises = recovery.lost_promises.len(),
                "the log is damaged"
            );
        }
        let mut state = new_state(segments, tail, self.pool);
        for group in groups.values() {
            let mut needed = Releases::default();
            group.release_all(&mut needed);
            for (sequence, bytes) in needed.iter() {
                if let Some(segment) = state.segments.get_mut(&sequence) {
                    segment.live += bytes;
                }
            }
        }
        state.groups = groups;
        let set_aside = self.set_aside.into_iter().map(|file| file.path).collect();
        Opened {
            state,
            recovery,
            newly_lost,
            unfinished,
            set_aside,
        }
    }

    fn hole(&mut self, segment: Option<u64>, offset: u32, path: Option<&Path>) {
        self.replay.hole(Position {
            segment: segment.unwrap_or(0),
            offset,
        });
        self.recovery.damage.push(Damage {
            segment,
            offset,
            path: path.map(Path::to_owned),
        });
    }

    fn scanner<'f>(&self, file: &'f Surveyed, sequence: u64, until: u32) -> Scanner<'f> {
        Scanner {
            file: &*file.file,
            sequence,
            incarnation: self.options.incarnation,
            until,
        }
    }

    /// All of an older segment was durable: every hole is damage. Without the next header, `end` is `None` and the hole
    /// after the last record may as well be the unused rest; the lost header is reported as damage in any case.
    /// Returns where the records end.
    fn older_segment(&mut self, file: &Surveyed, sequence: u64, end: Option<u32>, capacity: u32) -> io::Result<u32> {
        let until = end.unwrap_or(capacity).min(capacity);
        for found in self.scanner(file, sequence, until).scan()? {
            match found {
                Found::Record(record) => self.replay.record(record),
                Found::Hole { from, to } if end.is_none() && to == until => return Ok(from),
                Found::Hole { from, .. } => self.hole(Some(sequence), from, Some(&file.path)),
            }
        }
        Ok(until)
    }

    /// Judges the last segment, makes its tail durable and returns where it ends.
    fn last_segment(&mut self, file: &Surveyed, sequence: u64, capacity: u32) -> io::Result<u32> {
        let scanner = self.scanner(file, sequence, capacity);
        let found = scanner.scan()?;
        let mark = highest_mark(&found, sequence);
        let mut end = SEGMENT_HEADER_BYTES;
        let mut kept = 0;
        for found in &found {
            match found {
                Found::Record(record) => {
                    if record.offset >= mark && scanner.payload(&record.header, record.offset)?.is_none() {
                        break;
                    }
                    end = record.end();
                    self.replay.record(record.clone());
                }
                Found::Hole { from, .. } if *from >= mark => break,
                Found::Hole { from, to } => {
                    self.hole(Some(sequence), *from, Some(&file.path));
                    if *to > mark {
                        end = mark;
                        break;
                    }
                }
            }
            kept += 1;
        }
        // Intact-looking records behind the end would come back to life once new records reach up to them.
        let stale_end = found.iter().skip(kept).filter_map(as_record).map(Scanned::end).max();
        if let Some(stale_end) = stale_end {
            self.recovery.torn_tail = Some(TornTail {
                segment: sequence,
                offset: end,
            });
            fill_with_zeros(&*file.file, u64::from(end), u64::from(stale_end))?;
        }
        if end == SEGMENT_HEADER_BYTES
            && let Some(header) = file.header
        {
            file.file.write_vectored_at(&[IoSlice::new(&header.encode())], 0)?;
        }
        rewrite(&*file.file, mark, end)?;
        file.file.sync_data()?;
        Ok(end)
    }
}

fn as_record(found: &Found) -> Option<&Scanned> {
    match found {
        Found::Record(record) => Some(record),
        Found::Hole { .. } => None,
    }
}

/// Returns up to where the last segment was durable. Its header alone says that everything before it was.
fn highest_mark(found: &[Found], sequence: u64) -> u32 {
    let marks = found.iter().filter_map(as_record).map(|record| record.header.mark);
    let marks = marks.filter(|mark| mark.segment == sequence).map(|mark| mark.offset);
    marks.max().unwrap_or(0).max(SEGMENT_HEADER_BYTES)
}

/// Writes what is there once more, so that a sync has something to do.
fn rewrite(file: &dyn VfsFile, from: u32, to: u32) -> io::Result<()> {
    let mut at = u64::from(from);
    let mut piece = vec![0; 1 << 20];
    while at < u64::from(to) {
        let want = piece.len().min((u64::from(to) - at) as usize);
        let filled = file.read_at(&mut piece[..want], at)?;
        if filled == 0 {
            break;
        }
        file.write_vectored_at(&[IoSlice::new(&piece[..filled])], at)?;
        at += filled as u64;
    }
    Ok(())
}
