//! Which traces of a merged block may also lie elsewhere.
//!
//! Not every trace is looked for. A trace that is in two blocks is listed by the later of them, so the candidates of a
//! merge are what its inputs list, less what now lies in the result alone. A trace that only a block outside the merge
//! lists stays listed there. Blocks that appear while the merge runs list their traces against its inputs, which are in
//! the catalog until its result is.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, TryStreamExt};
use model::{BlockId, TraceId};

use super::choice::Job;
use crate::blocks::{Blocks, OpenBlock, SPLIT_TRACES_MAX};
use crate::catalog::{BlockRecord, CatalogView, SplitTraces};
use crate::error::Result;

/// Blocks opened at once. Nearly all are in the cache already.
const OPENS_IN_FLIGHT: usize = 8;

/// The list for the result of `job`. `cut` are traces that the result itself holds in pieces.
pub(super) async fn of_result(
    blocks: &Blocks,
    view: &CatalogView,
    job: &Job,
    inputs: &[Arc<OpenBlock>],
    cut: &[TraceId],
) -> Result<SplitTraces> {
    let candidates = candidates(job, inputs).await?;
    let mut split: BTreeSet<TraceId> = cut.iter().copied().collect();
    let is_input = |id: BlockId| job.inputs.iter().any(|input| input.id == id);
    let others: Vec<Arc<BlockRecord>> = view
        .blocks_of(&job.tenant)
        .filter(|record| !is_input(record.id))
        .map(Arc::clone)
        .collect();
    let mut opened = stream::iter(others)
        .map(|record| async move {
            match blocks.open(view, &record).await {
                Ok(other) => Ok((Some(other), record)),
                // A block that cannot be read may hold anything; its neighbours are merged all the same.
                Err(error) if error.damaged_object().is_some() => Ok((None, record)),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(OPENS_IN_FLIGHT);
    while let Some((other, record)) = opened.try_next().await? {
        let may_hold = |trace: &TraceId| other.as_ref().is_none_or(|other| other.may_contain_trace(trace));
        let both = |trace: &&TraceId| record.may_contain(trace) && may_hold(trace);
        split.extend(candidates.iter().filter(both));
    }
    Ok(if split.len() > SPLIT_TRACES_MAX {
        SplitTraces::All
    } else {
        SplitTraces::Listed(split.into_iter().collect())
    })
}

/// What the inputs list. An input that could not list its traces contributes all of them: 16 bytes each.
async fn candidates(job: &Job, inputs: &[Arc<OpenBlock>]) -> Result<BTreeSet<TraceId>> {
    let mut candidates = BTreeSet::new();
    for (record, open) in job.inputs.iter().zip(inputs) {
        match &record.split_traces {
            SplitTraces::Listed(traces) => candidates.extend(traces.iter().copied()),
            SplitTraces::All => {
                for group in 0..open.index().fences().len() {
                    candidates.extend(open.block().trace_ids(group).await?);
                }
            }
        }
    }
    Ok(candidates)
}
