//! Reading the settings file again while the node runs.
//!
//! Only `limits` takes effect: everything else was built into rooms that stand. A file that is wrong changes nothing and
//! is reported; the node goes on with what it had. The file is looked at by content, not by time: a Secret or ConfigMap
//! that is mounted changes by swapping a link.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::Common;

/// How often the file is read.
const EVERY: Duration = Duration::from_secs(10);

/// What a look at the file brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Reload {
    /// Nothing that matters is different.
    Unchanged,
    /// New limits are in effect.
    Applied,
    /// The file is wrong; one line per problem.
    Refused(String),
}

/// Reads the file and puts its limits in effect.
pub fn reload(path: &Path, common: &Common) -> Reload {
    match settings::load(path) {
        Err(error) => Reload::Refused(error.to_string()),
        Ok(settings) if settings.limits == **common.limits.load() => Reload::Unchanged,
        Ok(settings) => {
            common.tenancy.configure(&settings.limits);
            common.limits.store(Arc::new(settings.limits));
            Reload::Applied
        }
    }
}

/// Looks at the file until stopped.
pub async fn watch(path: PathBuf, common: Common, stop: CancellationToken) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        match reload(&path, &common) {
            Reload::Unchanged => said.clear(),
            Reload::Applied => {
                said.clear();
                tracing::info!(path = %path.display(), "limits were read again and are in effect");
            }
            // Once per kind of wrong, not every ten seconds.
            Reload::Refused(problems) if problems != said => {
                tracing::error!(path = %path.display(), %problems, "settings are wrong and were not read; the old ones stay");
                said = problems;
            }
            Reload::Refused(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    //! Files before and after.

    use model::{ManualClock, TenantId};

    use super::*;

    #[test]
    fn limits_change_and_what_is_wrong_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.yaml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let before = "tenancy: {multitenancy_enabled: true, tenants_auto: false}\n";
        write(before);
        let common = Common::new(settings::load(&path).unwrap(), Arc::new(ManualClock::at(0)));
        let acme = TenantId::new("acme").unwrap();
        let retention = || common.limits.load().of("acme").retention;
        assert_eq!(reload(&path, &common), Reload::Unchanged);
        assert!(common.tenancy.admit(&acme).is_err());

        write(&format!("{before}limits: {{tenants: {{acme: {{retention: 3d}}}}}}"));
        assert_eq!(reload(&path, &common), Reload::Applied);
        assert_eq!(retention(), settings::Period::days(3));
        assert!(common.tenancy.admit(&acme).is_ok());

        write("limits: {tenants: {acme: {retention: 3}}}");
        assert!(
            matches!(reload(&path, &common), Reload::Refused(text) if text.contains("limits.tenants.acme.retention"))
        );
        assert_eq!(retention(), settings::Period::days(3));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(reload(&path, &common), Reload::Refused(_)));
        assert_eq!(retention(), settings::Period::days(3));
    }
}
