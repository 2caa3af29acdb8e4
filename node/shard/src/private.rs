//! Folders and files of the node's disk that nobody else may read: spans hold what users did.
//!
//! What always holds: what is made here is for its owner alone, whatever the umask; what exists already keeps its mode. The
//! log makes its own files (`wal::RealVfs`); objects of a local object store follow the umask, but lie in a folder made here.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;

/// Makes the folder and those it is in; fine if it exists.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)
}

/// Makes a file that must not exist yet, for writing.
pub fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE).open(path)
}

/// Writes a whole file, in the place of what is there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(FILE).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_its_owner_and_what_exists_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (outer, inner) = (dir.path().join("a"), dir.path().join("a/b"));
        folder(&inner).unwrap();
        assert_eq!((mode(&outer), mode(&inner)), (0o700, 0o700));
        let (new, written) = (inner.join("new"), inner.join("written"));
        new_file(&new).unwrap();
        assert!(new_file(&new).is_err());
        write(&written, b"x").unwrap();
        assert_eq!((mode(&new), mode(&written)), (0o600, 0o600));
        for narrow in [0o400, 0o750] {
            fs::set_permissions(&outer, Permissions::from_mode(narrow | 0o100)).unwrap();
            folder(&outer).unwrap();
            assert_eq!(mode(&outer), narrow | 0o100);
        }
        write(&written, b"y").unwrap();
        assert_eq!(fs::read(&written).unwrap(), b"y");
    }
}
