//! What is said about a cluster: conditions and the rest of the status. Pure.

use crate::admin::StorageProblem;

/// Reason of the condition for what is wrong with the bucket.
pub(crate) fn storage_reason(problem: StorageProblem) -> &'static str {
    match problem {
        StorageProblem::AccessDenied => "AccessDenied",
        StorageProblem::BucketNotFound => "BucketNotFound",
        StorageProblem::Unreachable => "StorageUnreachable",
    }
}
