//! How fast the log makes entries durable, against the ways it could have been built. Ratios within one run are what
//! counts: disks and neighbours differ.
//!
//! `cargo run --release -p vivace-wal --example wal_bench -- <directory> [MiB per case]`
//!
//! Closed loop: each client appends one entry and waits until it is durable. `recycled`: segments that were written
//! before. `pre-written`: segments filled with zeros while the load runs. `allocated late`: files that have their size
//! but no blocks, so that every sync also commits the allocation. `file per group`: no shared log.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should panic")]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use vivace_wal::{EntryRecord, GroupKey, RealVfs, Vfs, VfsFile, VfsLock, Wal, WalOptions};

#[derive(Clone, Copy)]
struct Load {
    clients: u64,
    groups: u64,
    entry_bytes: usize,
}

struct Outcome {
    took: Duration,
    bytes: u64,
    syncs: u64,
    latencies: Vec<Duration>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().expect("usage: wal_bench <directory> [MiB per case]"));
    let bytes = arguments.next().map_or(512, |mib| mib.parse::<u64>().unwrap()) << 20;
    println!(
        "{:<16} {:>28} {:>8} {:>9} {:>9} {:>9}",
        "case", "load", "MB/s", "syncs/s", "p50 ms", "p99 ms"
    );
    for load in [
        Load {
            clients: 32,
            groups: 16,
            entry_bytes: 64 << 10,
        },
        Load {
            clients: 4,
            groups: 4,
            entry_bytes: 64 << 10,
        },
        Load {
            clients: 64,
            groups: 16,
            entry_bytes: 10 << 10,
        },
    ] {
        let dir = |name: &str| root.join(format!("{name}-{}-{}", load.clients, load.entry_bytes));
        report(
            "recycled",
            load,
            run_wal(&dir("recycled"), Arc::new(RealVfs), load, bytes, true),
        );
        report(
            "pre-written",
            load,
            run_wal(&dir("prewritten"), Arc::new(RealVfs), load, bytes, false),
        );
        report(
            "allocated late",
            load,
            run_wal(&dir("late"), Arc::new(LateVfs(RealVfs)), load, bytes, false),
        );
        report("file per group", load, run_files(&dir("files"), load, bytes / 4));
    }
}

fn report(name: &str, load: Load, mut outcome: Outcome) {
    outcome.latencies.sort();
    let at = |part: usize| outcome.latencies[(outcome.latencies.len() - 1) * part / 100].as_secs_f64() * 1e3;
    let seconds = outcome.took.as_secs_f64();
    println!(
        "{name:<16} {:>28} {:>8.0} {:>9.0} {:>9.2} {:>9.2}",
        format!("{} clients, {} KiB", load.clients, load.entry_bytes >> 10),
        outcome.bytes as f64 / 1e6 / seconds,
        outcome.syncs as f64 / seconds,
        at(50),
        at(99),
    );
}

/// Runs the clients until the bytes are written; `write` appends the client's next entry and waits.
fn closed_loop(load: Load, bytes: u64, write: impl Fn(u64) + Sync) -> (Duration, Vec<Duration>) {
    let rounds = bytes / (load.clients * load.entry_bytes as u64);
    let latencies = Mutex::new(Vec::new());
    let started = Instant::now();
    thread::scope(|scope| {
        for client in 0..load.clients {
            let (latencies, write) = (&latencies, &write);
            scope.spawn(move || {
                let mut own = Vec::new();
                for _ in 0..rounds {
                    let started = Instant::now();
                    write(client % load.groups);
                    own.push(started.elapsed());
                }
                latencies.lock().unwrap().extend(own);
            });
        }
    });
    (started.elapsed(), latencies.into_inner().unwrap())
}

fn run_wal(dir: &Path, vfs: Arc<dyn Vfs>, load: Load, bytes: u64, recycled: bool) -> Outcome {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).unwrap();
    let options = WalOptions {
        quota_bytes: 2 * bytes + (2 << 30),
        ..WalOptions::new(1)
    };
    let (wal, _) = Wal::open(vfs, dir, options).unwrap();
    let next: Vec<Mutex<u64>> = (0..load.groups).map(|_| Mutex::new(0)).collect();
    let payload = Bytes::from(
        (0..load.entry_bytes)
            .map(|at| (at * 31 % 251) as u8)
            .collect::<Vec<_>>(),
    );
    let write = |group: u64| {
        let (sender, receiver) = mpsc::sync_channel(1);
        {
            let mut index = next[group as usize].lock().unwrap();
            let entry = EntryRecord {
                index: *index,
                term: 1,
                payload: payload.clone(),
            };
            wal.append(
                GroupKey(group),
                vec![entry],
                Box::new(move |result| sender.send(result).unwrap()),
            )
            .unwrap();
            *index += 1;
            if recycled && index.is_multiple_of(64) {
                let mark = Bytes::from_static(b"mark");
                wal.purge_to(
                    GroupKey(group),
                    *index - 32,
                    1,
                    mark,
                    Box::new(|result| result.unwrap()),
                )
                .unwrap();
            }
        }
        receiver.recv().unwrap().unwrap();
    };
    // Until the pool is full, and for `recycled` until its segments have been around once.
    closed_loop(load, if recycled { 768 << 20 } else { 32 << 20 }, write);
    while wal.metrics().segments_pool.load(Relaxed) < 6 {
        thread::sleep(Duration::from_millis(20));
    }
    let syncs = wal.metrics().syncs.load(Relaxed);
    let (took, latencies) = closed_loop(load, bytes, write);
    let syncs = wal.metrics().syncs.load(Relaxed) - syncs;
    wal.close();
    std::fs::remove_dir_all(dir).unwrap();
    Outcome {
        took,
        bytes: latencies.len() as u64 * load.entry_bytes as u64,
        syncs,
        latencies,
    }
}

fn run_files(dir: &Path, load: Load, bytes: u64) -> Outcome {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).unwrap();
    let files: Vec<Mutex<(File, u64)>> = (0..load.groups)
        .map(|group| {
            let path = dir.join(format!("{group}"));
            Mutex::new((
                OpenOptions::new()
                    .create(true)
                    .truncate(true)
                    .write(true)
                    .open(path)
                    .unwrap(),
                0,
            ))
        })
        .collect();
    let payload: Vec<u8> = (0..load.entry_bytes).map(|at| (at * 31 % 251) as u8).collect();
    let syncs = AtomicU64::new(0);
    let write = |group: u64| {
        let mut file = files[group as usize].lock().unwrap();
        let end = file.1;
        file.0.write_all_at(&payload, end).unwrap();
        file.0.sync_data().unwrap();
        file.1 += payload.len() as u64;
        syncs.fetch_add(1, Relaxed);
    };
    let (took, latencies) = closed_loop(load, bytes, write);
    std::fs::remove_dir_all(dir).unwrap();
    Outcome {
        took,
        bytes: latencies.len() as u64 * load.entry_bytes as u64,
        syncs: syncs.load(Relaxed),
        latencies,
    }
}

/// The real file system, except that zeros are not written: files get their size and nothing else.
#[derive(Debug)]
struct LateVfs(RealVfs);

#[derive(Debug)]
struct LateFile {
    file: Arc<dyn VfsFile>,
    sizer: File,
}

impl LateVfs {
    fn wrap(&self, path: &Path, file: Arc<dyn VfsFile>) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(LateFile {
            file,
            sizer: OpenOptions::new().write(true).open(path)?,
        }))
    }
}

impl Vfs for LateVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn VfsLock>> {
        self.0.lock(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.wrap(path, self.0.open(path)?)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.wrap(path, self.0.create(path)?)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.0.free_bytes(dir)
    }
}

impl VfsFile for LateFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        match slices {
            [zeros] if zeros.len() > 1 << 20 && zeros.iter().all(|byte| *byte == 0) => {
                self.sizer.set_len(offset + zeros.len() as u64)
            }
            _ => self.file.write_vectored_at(slices, offset),
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
