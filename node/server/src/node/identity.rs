//! The identity of this node on this disk.
//!
//! A disk that comes back empty is another node: the id is made when the data directory is first used and lives in it.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, bail};
use model::NodeId;
use plants::Plant;

const FILE: &str = "node-id";
const CLUSTER_FILE: &str = "cluster-id";
const FOUNDING_FILE: &str = "founding-id";

/// The cluster this disk belongs to; 0 while it belongs to none.
pub(super) fn cluster(data_dir: &Path) -> anyhow::Result<u128> {
    cluster_in(&data_dir.join(CLUSTER_FILE))
}

/// An id for a new cluster.
pub(super) fn new_cluster() -> u128 {
    rand::random::<u128>() | 1
}

/// The id of the cluster that this disk is to found: the one of an attempt that did not come to its end, or a new one, which
/// is kept durably.
pub(super) fn founding(data_dir: &Path) -> anyhow::Result<u128> {
    let path = data_dir.join(FOUNDING_FILE);
    match cluster_in(&path)? {
        0 => {
            let id = new_cluster();
            write_durably(data_dir, &path, &format!("{id:032x}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(id)
        }
        known => Ok(known),
    }
}

fn cluster_in(path: &Path) -> anyhow::Result<u128> {
    match fs::read_to_string(path) {
        Ok(text) => match u128::from_str_radix(text.trim(), 16) {
            Ok(id) if id != 0 => Ok(id),
            _ => bail!(
                "{} does not hold a cluster id; restore it or start with an empty data directory",
                path.display()
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Keeps the cluster's id, durably. A disk belongs to one cluster for life.
pub(super) fn keep_cluster(data_dir: &Path, id: u128) -> anyhow::Result<()> {
    match cluster(data_dir)? {
        0 => {
            let path = data_dir.join(CLUSTER_FILE);
            write_durably(data_dir, &path, &format!("{id:032x}\n"))
                .with_context(|| format!("cannot write {}", path.display()))
        }
        known if known == id => Ok(()),
        known => bail!("this disk belongs to cluster {known:032x}, not to {id:032x}"),
    }
}

/// Reads the id, or makes one and keeps it: durable before it is used.
pub(super) fn load_or_make(data_dir: &Path) -> anyhow::Result<NodeId> {
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match u64::from_str_radix(text.trim(), 16) {
            Ok(id) if id != 0 => Ok(NodeId(id)),
            _ => bail!(
                "{} does not hold a node id; restore it or start with an empty data directory",
                path.display()
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if data_dir.join("wal").is_dir() {
                bail!(
                    "{} is gone, but there is a log beside it; restore it or start with an empty data directory",
                    path.display()
                );
            }
            let id = match plants::is(Plant::ReusedNodeId) {
                true => twox_hash::XxHash3_64::oneshot(data_dir.as_os_str().as_encoded_bytes()) | 1,
                false => rand::random::<u64>() | 1,
            };
            write_durably(data_dir, &path, &format!("{id:016x}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(NodeId(id))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write_durably(dir: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let staged = path.with_extension("new");
    shard::private::write(&staged, text.as_bytes())?.sync_all()?;
    fs::rename(&staged, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let id = load_or_make(folder.path()).unwrap();
        assert_ne!(id.0, 0);
        assert_eq!(load_or_make(folder.path()).unwrap(), id);
    }

    #[test]
    fn a_disk_belongs_to_one_cluster_for_life() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cluster(folder.path()).unwrap(), 0);
        keep_cluster(folder.path(), 7).unwrap();
        keep_cluster(folder.path(), 7).unwrap();
        assert!(keep_cluster(folder.path(), 8).is_err());
        assert_eq!(cluster(folder.path()).unwrap(), 7);
        fs::write(folder.path().join(CLUSTER_FILE), "").unwrap();
        assert!(cluster(folder.path()).is_err());
    }

    #[test]
    fn a_founding_that_was_cut_off_goes_on_with_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let id = founding(folder.path()).unwrap();
        assert_ne!(id, 0);
        assert_eq!(founding(folder.path()).unwrap(), id);
        assert_eq!(cluster(folder.path()).unwrap(), 0);
    }

    #[test]
    fn an_id_that_is_damaged_or_gone_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "nonsense").unwrap();
        assert!(load_or_make(folder.path()).is_err());
        fs::remove_file(folder.path().join(FILE)).unwrap();
        fs::create_dir(folder.path().join("wal")).unwrap();
        assert!(load_or_make(folder.path()).is_err());
    }
}
