//! From a file to checked settings.
//!
//! Three steps, each of which reports what it can see: [`parse`] reads the text and runs [`NodeSettings::validate`],
//! [`check_secret_files`] looks at the files that hold secrets, [`load`] does both for a path.

use std::path::Path;

use crate::problem::{Problem, Problems, SettingsError};
use crate::{ByteSize, NodeSettings, shape};

/// Larger files are refused unread: ten thousand tenants with every limit overridden fit in 10 MiB.
const FILE_BYTES_MAX: ByteSize = ByteSize::mib(16);
/// An S3 or Azure key is under 200 bytes, the JSON key of a Google service account under 3 KiB.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Reads settings from YAML text and validates them. Text without any setting gives the defaults.
pub fn parse(text: &str) -> Result<NodeSettings, SettingsError> {
    match shape::read(text) {
        Ok(settings) => {
            settings.validate()?;
            Ok(settings)
        }
        Err(problems) => Err(SettingsError::Invalid(problems)),
    }
}

/// Reads, validates and checks the secret files that the settings name.
pub fn load(path: &Path) -> Result<NodeSettings, SettingsError> {
    let read = |source| SettingsError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(read)?;
    if metadata.len() > FILE_BYTES_MAX.0 {
        let message = format!("{} is larger than {FILE_BYTES_MAX}", path.display());
        return Err(SettingsError::Invalid(vec![Problem {
            field: String::new(),
            message,
        }]));
    }
    let settings = parse(&std::fs::read_to_string(path).map_err(read)?)?;
    check_secret_files(&settings)?;
    Ok(settings)
}

/// Every secret file must exist, be a file with something in it, and not be readable by everyone.
pub fn check_secret_files(settings: &NodeSettings) -> Result<(), SettingsError> {
    let mut problems = Problems::default();
    for (field, path) in settings
        .storage
        .secret_files()
        .into_iter()
        .chain(settings.cluster.secret_files())
    {
        if let Err(message) = check_secret_file(path) {
            problems.add(field, format!("{}: {message}", path.display()));
        }
    }
    problems.into_result()
}

fn check_secret_file(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    if metadata.len() == 0 {
        return Err("is empty".to_owned());
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(format!(
            "is larger than {}, so it is not a key",
            ByteSize(SECRET_BYTES_MAX)
        ));
    }
    if is_world_readable(&metadata) {
        return Err("is readable by everyone: chmod o-r it".to_owned());
    }
    Ok(())
}

#[cfg(unix)]
fn is_world_readable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_world_readable(_: &std::fs::Metadata) -> bool {
    false
}
