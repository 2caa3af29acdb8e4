//! The simplest store that does the same: one file for each group, one sync for each call, the whole group in memory.
//!
//! A second implementation to hold against the first, and the slow one in the benchmark's comparison.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use vivace_wal::{EntryRecord, PurgeMark, SimVfs, Vfs, VfsFile};

use super::model::Model;

#[derive(Debug)]
pub struct FilePerGroup {
    vfs: SimVfs,
    files: BTreeMap<u64, (Arc<dyn VfsFile>, u64)>,
    model: Model,
}

fn dir() -> &'static Path {
    Path::new("/data/groups")
}

fn path(group: u64) -> PathBuf {
    dir().join(format!("{group}"))
}

/// Sum of bytes, good enough to see the end of the file: it is only ever cut or zeroed in these tests' torn sectors.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

impl FilePerGroup {
    pub fn open(vfs: SimVfs) -> Self {
        let mut store = Self {
            files: BTreeMap::new(),
            model: Model::new(),
            vfs,
        };
        for path in store.vfs.list(dir()).unwrap() {
            let group: u64 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let file = store.vfs.open(&path).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            let mut rest = Bytes::from(bytes);
            let mut end = 0;
            while rest.remaining() >= 16 {
                let (len, sum) = (rest.get_u64() as usize, rest.get_u64());
                if len == 0 || rest.remaining() < len || checksum(&rest[..len]) != sum {
                    break;
                }
                store.apply(group, rest.split_to(len));
                end += 16 + len as u64;
            }
            // Durable before anything is built on it, like the log does.
            file.write_vectored_at(&[IoSlice::new(&vec![0; 4096])], end).unwrap();
            file.sync_data().unwrap();
            store.vfs.sync_dir(dir()).unwrap();
            if end == 0 {
                store.vfs.remove(&path).unwrap();
                store.vfs.sync_dir(dir()).unwrap();
            } else {
                store.files.insert(group, (file, end));
            }
        }
        store
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    fn log(&mut self, group: u64, op: &[u8]) {
        let (file, end) = self.files.entry(group).or_insert_with(|| {
            let file = self.vfs.create(&path(group)).unwrap();
            self.vfs.sync_dir(dir()).unwrap();
            (file, 0)
        });
        let mut head = BytesMut::new();
        head.put_u64(op.len() as u64);
        head.put_u64(checksum(op));
        file.write_vectored_at(&[IoSlice::new(&head), IoSlice::new(op)], *end)
            .unwrap();
        file.sync_data().unwrap();
        *end += 16 + op.len() as u64;
        self.apply(group, Bytes::copy_from_slice(op));
    }

    fn apply(&mut self, group: u64, mut op: Bytes) {
        let group = self.model.entry(group).or_default();
        match op.get_u8() {
            b'e' => {
                let (index, term) = (op.get_u64(), op.get_u64());
                group.entries.insert(index, (term, op));
            }
            b'v' => group.vote = Some(op),
            b'c' => group.committed = Some(op),
            b't' => {
                let index = op.get_u64();
                group.entries.retain(|entry, _| *entry <= index);
            }
            b'a' => group.entries.clear(),
            b'p' => {
                let (index, term) = (op.get_u64(), op.get_u64());
                group.entries.retain(|entry, _| *entry > index);
                group.purged = Some(PurgeMark {
                    index,
                    term,
                    payload: op,
                });
            }
            kind => panic!("operation {kind}"),
        }
    }

    pub fn append(&mut self, group: u64, entries: Vec<EntryRecord>) {
        for entry in entries {
            let mut op = BytesMut::new();
            op.put_u8(b'e');
            op.put_u64(entry.index);
            op.put_u64(entry.term);
            op.put_slice(&entry.payload);
            self.log(group, &op);
        }
    }

    pub fn save_vote(&mut self, group: u64, payload: Bytes) {
        self.log(group, &[b"v", &payload[..]].concat());
    }

    pub fn save_committed(&mut self, group: u64, payload: Bytes) {
        self.log(group, &[b"c", &payload[..]].concat());
    }

    pub fn truncate_after(&mut self, group: u64, index: Option<u64>) {
        if !self.model.contains_key(&group) {
            return;
        }
        match index {
            Some(index) => self.log(group, &[b"t", &index.to_be_bytes()[..]].concat()),
            None => self.log(group, b"a"),
        }
    }

    pub fn purge_to(&mut self, group: u64, index: u64, term: u64, mark: Bytes) {
        let old = self.model.get(&group).and_then(|group| group.purged.as_ref());
        if old.is_none_or(|old| old.index < index) {
            self.log(
                group,
                &[b"p", &index.to_be_bytes()[..], &term.to_be_bytes(), &mark].concat(),
            );
        }
    }

    pub fn drop_group(&mut self, group: u64) {
        if self.files.remove(&group).is_some() {
            self.vfs.remove(&path(group)).unwrap();
            self.vfs.sync_dir(dir()).unwrap();
        }
        self.model.remove(&group);
    }
}
