//! Keys of S3 from files, read again while the node runs.
//!
//! A mounted Secret changes under the node's feet, and temporary keys end: keys that were read once would have to be
//! followed by a restart. Always holds: files that cannot be read leave the keys that were; a key is in no log line.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use parking_lot::Mutex;

use super::read_secret;

/// How long keys are used before the files are read again; a request refused in between is retried by its caller.
pub(super) const EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) id: PathBuf,
    pub(super) secret: PathBuf,
    pub(super) token: Option<PathBuf>,
}

pub(super) struct KeyFiles {
    files: Files,
    every: Duration,
    kept: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl KeyFiles {
    /// Errors: a file that cannot be read.
    pub(super) fn open(files: Files, every: Duration) -> anyhow::Result<Self> {
        let kept = Mutex::new((Instant::now(), Arc::new(read(&files)?)));
        Ok(Self { files, every, kept })
    }

    fn current(&self) -> Arc<AwsCredential> {
        let mut kept = self.kept.lock();
        let (read_at, keys) = &mut *kept;
        if read_at.elapsed() >= self.every {
            *read_at = Instant::now();
            match read(&self.files) {
                Ok(read) => *keys = Arc::new(read),
                Err(error) => tracing::warn!("the keys of the object store stay as they were: {error:#}"),
            }
        }
        Arc::clone(keys)
    }
}

fn read(files: &Files) -> anyhow::Result<AwsCredential> {
    Ok(AwsCredential {
        key_id: read_secret(&files.id)?,
        secret_key: read_secret(&files.secret)?,
        token: files.token.as_deref().map(read_secret).transpose()?,
    })
}

impl CredentialProvider for KeyFiles {
    type Credential = AwsCredential;

    // Three files of a few bytes: handing them to another thread would take longer than reading them.
    fn get_credential<'a, 'f>(&'a self) -> BoxFuture<'f, object_store::Result<Arc<AwsCredential>>>
    where
        'a: 'f,
        Self: 'f,
    {
        let keys = self.current();
        Box::pin(async { Ok(keys) })
    }
}

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    //! Files in, keys out.

    use super::*;

    #[test]
    fn keys_follow_their_files_and_survive_them() {
        let folder = tempfile::tempdir().unwrap();
        let [id, secret, token] = ["id", "secret", "token"].map(|name| folder.path().join(name));
        let write = |keys: [&str; 3]| {
            for (path, key) in [&id, &secret, &token].into_iter().zip(keys) {
                std::fs::write(path, format!("{key}\n")).unwrap();
            }
        };
        write(["i1", "s1", "t1"]);
        let files = Files {
            id: id.clone(),
            secret: secret.clone(),
            token: Some(token.clone()),
        };
        let hasty = KeyFiles::open(files.clone(), Duration::ZERO).unwrap();
        let patient = KeyFiles::open(files, Duration::from_secs(3600)).unwrap();
        let shown = |keys: &KeyFiles| {
            let keys = keys.current();
            format!("{} {} {:?}", keys.key_id, keys.secret_key, keys.token)
        };
        assert_eq!(shown(&hasty), r#"i1 s1 Some("t1")"#);
        write(["i2", "s2", "t2"]);
        assert_eq!(shown(&hasty), r#"i2 s2 Some("t2")"#);
        assert_eq!(shown(&patient), r#"i1 s1 Some("t1")"#);
        std::fs::remove_file(&token).unwrap();
        assert_eq!(shown(&hasty), r#"i2 s2 Some("t2")"#);
        assert!(!format!("{hasty:?}").contains("s2"), "{hasty:?}");
    }
}
