//! Damage in sealed segments is found before anybody needs them; nothing else is called damage.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use support::*;
use vivace_wal::{DamagedPlace, GroupKey, Scrub, ScrubStep, SimVfs, Vfs, VfsFile, VfsLock, Wal};

/// A log with some sealed segments, and what one pass reads of them.
fn sample() -> (SimVfs, Wal) {
    let vfs = SimVfs::new(1);
    let (wal, _) = open_ok(&vfs, tiny());
    for round in 0..12 {
        for group in 1..=3 {
            append(&wal, group, round, 300 * group as usize);
            wal.save_vote(GroupKey(group), payload(group, round, 9, 24), ignore())
                .unwrap();
        }
        drain(&wal);
    }
    (vfs, wal)
}

/// One pass in steps of so many bytes.
fn pass(wal: &Wal, bytes_max: usize) -> ScrubStep {
    let (mut scrub, mut sum) = (Scrub::default(), ScrubStep::default());
    while !sum.is_over {
        let step = wal.scrub(&mut scrub, bytes_max);
        assert!(step.is_over || step.bytes > 0, "it gets on");
        sum.bytes += step.bytes;
        sum.damage.extend(step.damage);
        sum.is_over = step.is_over;
    }
    sum
}

/// Files by the number of the segment they hold, oldest first; the last one is the one being written.
fn segments(vfs: &SimVfs) -> Vec<(u64, PathBuf)> {
    let header = |path: &PathBuf| u64::from_le_bytes(vfs.contents(path).unwrap()[24..32].try_into().unwrap());
    let mut segments: Vec<_> = vfs
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "wal"))
        .map(|path| (header(&path), path))
        .filter(|(sequence, _)| *sequence > 0)
        .collect();
    segments.sort();
    segments
}

#[test]
fn a_sound_log_has_no_damage_at_any_pace() {
    let (vfs, wal) = sample();
    let sealed = segments(&vfs).len() as u64 - 1;
    assert!(sealed >= 3);
    let whole = pass(&wal, usize::MAX);
    assert_eq!(whole.damage, []);
    assert!(whole.bytes > (sealed * 6) << 10, "{} of {sealed} segments", whole.bytes);
    for bytes_max in [1, 100, 4096, 10_000] {
        assert_eq!(pass(&wal, bytes_max), whole, "{bytes_max}");
    }
    let counted = wal.metrics().scrubbed_bytes.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(counted, 5 * whole.bytes);
}

/// Each bit of a sealed segment that means anything.
#[test]
fn every_flipped_bit_of_a_sealed_segment_is_found() {
    let (vfs, wal) = sample();
    let (sequence, path) = segments(&vfs).remove(1);
    let end = 4096 + 2048;
    let header_bits = (0..64 * 8).chain(2048 * 8..(2048 + 64) * 8);
    let mut in_payloads = 0;
    for bit in header_bits.chain(4096 * 8..end * 8) {
        vfs.flip_bit(&path, bit);
        let damage = pass(&wal, 1 << 20).damage;
        match damage[..] {
            [DamagedPlace { segment, offset }] => {
                assert_eq!(segment, sequence);
                let at = bit / 8;
                assert!(
                    u64::from(offset) <= at && at < u64::from(offset) + 4096,
                    "{bit}: {offset}"
                );
                in_payloads += u64::from(at >= u64::from(offset) + 64);
            }
            // Zeros between records are covered by nothing.
            [] => assert_eq!(
                vfs.contents(&path).unwrap()[(bit / 8) as usize].count_ones(),
                1,
                "{bit}"
            ),
            _ => panic!("{bit}: {damage:?}"),
        }
        vfs.flip_bit(&path, bit);
    }
    assert!(in_payloads > 8 * 1024);
    assert_eq!(pass(&wal, 1 << 20).damage, []);
}

#[test]
fn the_segment_that_is_written_is_left_alone() {
    let (vfs, wal) = sample();
    let (_, path) = segments(&vfs).pop().unwrap();
    vfs.flip_bit(&path, (4096 + 64 + 3) * 8);
    assert_eq!(pass(&wal, 1 << 20).damage, []);
}

/// Segments go back to the spares, and into their next life, behind the back of a pass that has begun.
#[test]
fn what_is_freed_and_written_again_meanwhile_is_no_damage() {
    let (_, wal) = sample();
    let (mut scrub, mut next) = (Scrub::default(), 12);
    // In the middle of the oldest segment.
    assert_eq!(wal.scrub(&mut scrub, 5000).damage, []);
    for _ in 0..12 {
        for group in 1..=3 {
            wal.purge_to(GroupKey(group), next - 1, 1, payload(group, next - 1, 1, 16), ignore())
                .unwrap();
            append(&wal, group, next, 700);
        }
        drain(&wal);
        next += 1;
        assert_eq!(wal.scrub(&mut scrub, 700).damage, []);
    }
    assert_eq!(pass(&wal, 1 << 20).damage, []);
}

/// What a file system does when the scrub begins with a segment; once.
type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A simulated disk on which something happens between two reads of one step.
#[derive(Clone)]
struct Busy {
    disk: SimVfs,
    meanwhile: Meanwhile,
}

#[derive(Debug)]
struct BusyFile {
    file: Arc<dyn VfsFile>,
    disk: Busy,
}

impl std::fmt::Debug for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Busy")
    }
}

impl Busy {
    fn file(&self, file: Arc<dyn VfsFile>) -> Arc<dyn VfsFile> {
        Arc::new(BusyFile {
            file,
            disk: self.clone(),
        })
    }
}

impl Vfs for Busy {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn VfsLock>> {
        self.disk.lock(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.disk.open(path).map(|file| self.file(file))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.disk.create(path).map(|file| self.file(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_bytes(dir)
    }
}

impl VfsFile for BusyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_vectored_at(&self, slices: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(slices, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn forget_cached(&self) {
        let meanwhile = self.disk.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
    }
}

#[test]
fn nor_when_it_happens_in_the_middle_of_a_step() {
    let disk = Busy {
        disk: SimVfs::new(1),
        meanwhile: Meanwhile::default(),
    };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), dir(), tiny()).unwrap();
    for index in 0..40 {
        append(&wal, 1, index, 700);
        drain(&wal);
    }
    let writer = wal.clone();
    *disk.meanwhile.lock().unwrap() = Some(Box::new(move || {
        // Every file comes into its next life.
        for index in 40..400 {
            append(&writer, 1, index, 700);
            writer
                .purge_to(GroupKey(1), index, 1, payload(1, index, 1, 16), ignore())
                .unwrap();
            drain(&writer);
        }
    }));
    let step = wal.scrub(&mut Scrub::default(), 4096);
    assert!(disk.meanwhile.lock().unwrap().is_none(), "it happened");
    assert_eq!(step.damage, []);
}
