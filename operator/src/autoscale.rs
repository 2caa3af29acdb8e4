//! How many nodes the load asks for, in mode Operator. Pure.
//!
//! The wish stands in the status and never in the spec. **Always holds:** nothing is decided while an operation runs, while
//! fewer than four fifths of the nodes have fresh numbers, or within a cooldown; up only if the load asked for it all
//! through the window (refused spans count at once), down one step and only if it asked for less all through a longer
//! window and the load on the rest would stay clearly below the target. Equal recommendations are kept as one, so that a
//! quiet cluster's status does not change.

use crds::cluster::autoscaling::{AutoscalingMode, Targets};
use crds::cluster::status::{AutoscalingStatus, OperationKind, Recommendation, SignalStatus};
use crds::{Period, TracingClusterStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observed::Observed;
use crate::validate::Cluster;

/// Numbers older than this do not count.
const FRESH_SECONDS: u64 = 45;
/// Per cent above and below the target that count as on target.
const DEAD_BAND: u64 = 10;
/// Per cent of the target that the load may reach on the nodes that are left.
const PROJECTED_MAX: u64 = 80;
/// Recommendations that are kept.
const KEPT_MAX: usize = 64;

/// One signal: name, load per node, target.
type Signal = (&'static str, u64, u64);

/// What is wished now; `None` where the operator does not decide.
pub fn decide(cluster: &Cluster, status: &TracingClusterStatus, observed: &Observed) -> Option<AutoscalingStatus> {
    let scaling = &cluster.spec.autoscaling;
    if scaling.mode != AutoscalingMode::Operator {
        return None;
    }
    let count = |number: i32| u64::try_from(number).unwrap_or(1).max(1);
    let least = count(scaling.min_replicas).max(u64::from(cluster.floor()));
    let most = count(scaling.max_replicas).max(least);
    let now = observed.now;
    let mut wish = status.autoscaling.clone().unwrap_or_default();
    let known = u64::try_from(wish.desired_replicas).unwrap_or_default();
    let nodes = if known == 0 { u64::from(cluster.replicas) } else { known }.clamp(least, most);
    wish.desired_replicas = replicas(nodes);
    let pods = u64::from(observed.memory.pods());
    if observed.memory.operation.kind != OperationKind::None || pods != nodes {
        wish.reason = Some("nodes are being added, removed or restarted".to_owned());
        return Some(wish);
    }
    let (signals, refused, fresh) = signals(cluster, observed);
    if fresh * 5 < nodes * 4 {
        wish.reason = Some(format!("{fresh} of {nodes} nodes have fresh numbers"));
        return Some(wish);
    }
    let asked = signals
        .iter()
        .map(|(_, load, target)| asked(nodes, *load, *target))
        .max()
        .unwrap_or(nodes);
    let asked = if refused { asked.max(nodes + 1) } else { asked }.clamp(least, most);
    remember(
        &mut wish.recommendations,
        asked,
        now,
        longest(&scaling.scale_up.stabilization, &scaling.scale_down.stabilization),
    );
    wish.signals = signals
        .iter()
        .map(|(name, load, target)| SignalStatus {
            name: (*name).to_owned(),
            // Told in tenths of the target: what only breathes is no news.
            current: number(load * 10 / (*target).max(1) * target / 10),
            target: number(*target),
        })
        .collect();

    let since = |time: &Option<Time>| time.as_ref().map(|time| now.duration_since(time.0));
    let has_cooled = |cooldown: &Period, last: Option<SignedDuration>| last.is_none_or(|last| last >= length(cooldown));
    let up = &scaling.scale_up;
    // What was asked for before anybody looked is not known.
    let covers = |window: SignedDuration, kept: &[Recommendation]| {
        let first = kept.first().and_then(|first| first.at.as_ref());
        first.is_some_and(|at| now.duration_since(at.0) >= window)
    };
    let through = if covers(length(&up.stabilization), &wish.recommendations) {
        within(&wish.recommendations, now, length(&up.stabilization))
            .min()
            .unwrap_or(nodes)
    } else {
        nodes
    };
    let wants_up = if refused { asked } else { through };
    if wants_up > nodes && has_cooled(&up.cooldown, since(&wish.last_scale_up_time)) {
        let next = wants_up.min(nodes + count(up.max_step)).min(most);
        wish.desired_replicas = replicas(next);
        wish.last_scale_time = Some(Time(now));
        wish.last_scale_up_time = Some(Time(now));
        wish.reason = Some(if refused {
            "nodes refuse spans".to_owned()
        } else {
            format!("the load asks for {wants_up} nodes")
        });
        return Some(wish);
    }
    let down = &scaling.scale_down;
    let window = length(&down.stabilization);
    let is_covered = covers(window, &wish.recommendations);
    let highest = within(&wish.recommendations, now, window).max().unwrap_or(nodes);
    let next = nodes.saturating_sub(count(down.max_step)).max(highest).max(least);
    let fits = signals
        .iter()
        .all(|(_, load, target)| load * nodes * 100 <= target * PROJECTED_MAX * next);
    let is_calm = since(&wish.last_scale_up_time).is_none_or(|last| last >= window);
    if down.enabled
        && is_covered
        && next < nodes
        && fits
        && is_calm
        && has_cooled(&down.cooldown, since(&wish.last_scale_time))
    {
        wish.desired_replicas = replicas(next);
        wish.last_scale_time = Some(Time(now));
        wish.reason = Some(format!(
            "the load asked for at most {highest} nodes for {}",
            down.stabilization.0
        ));
        return Some(wish);
    }
    wish.reason = Some("the load is as aimed at".to_owned());
    Some(wish)
}

fn replicas(nodes: u64) -> i32 {
    i32::try_from(nodes).unwrap_or(i32::MAX)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn length(period: &Period) -> SignedDuration {
    SignedDuration::try_from(period.duration().unwrap_or_default()).unwrap_or(SignedDuration::MAX)
}

fn longest(a: &Period, b: &Period) -> SignedDuration {
    length(a).max(length(b))
}

/// Nodes that a signal asks for.
fn asked(nodes: u64, load: u64, target: u64) -> u64 {
    let target = target.max(1);
    let is_near = load * 100 <= target * (100 + DEAD_BAND) && load * 100 >= target * (100 - DEAD_BAND);
    if is_near {
        nodes
    } else {
        (nodes * load).div_ceil(target).max(1)
    }
}

/// The load of one node by signal, whether spans are refused, and how many nodes said so.
fn signals(cluster: &Cluster, observed: &Observed) -> (Vec<Signal>, bool, u64) {
    let fresh: Vec<_> = observed
        .nodes
        .values()
        .filter_map(|node| node.signals)
        .filter(|said| said.age_seconds <= FRESH_SECONDS)
        .collect();
    let nodes = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
    let mean = |of: fn(&crate::admin::Signals) -> u64| fresh.iter().map(of).sum::<u64>() / nodes.max(1);
    let targets = cluster.spec.autoscaling.targets.clone().unwrap_or_else(Targets::usual);
    let per_cent = |target: Option<i32>| target.and_then(|target| u64::try_from(target).ok());
    let mut signals = Vec::new();
    if let Some(target) = targets
        .ingest_bytes_per_second
        .as_ref()
        .and_then(|size| size.bytes().ok())
    {
        signals.push(("ingest", mean(|node| node.ingest_bytes_per_second), target));
    }
    if let Some(target) = per_cent(targets.cpu_utilization) {
        signals.push((
            "cpu",
            mean(|node| node.cpu_millis) * 100 / cluster.cpu_millis.max(1),
            target,
        ));
    }
    if let Some(target) = per_cent(targets.memory_utilization) {
        signals.push((
            "memory",
            mean(|node| node.memory_bytes) * 100 / cluster.memory_bytes.max(1),
            target,
        ));
    }
    if let Some(target) = per_cent(targets.disk_utilization) {
        signals.push(("disk", mean(|node| node.wal_percent), target));
    }
    if let Some(target) = per_cent(targets.query_queue_depth) {
        signals.push(("queries", mean(|node| node.query_queue), target));
    }
    let refused = fresh.iter().any(|node| node.rejected_spans_per_second > 0);
    (signals, refused, nodes)
}

/// Adds what is asked for now; each entry holds until the next one begins.
fn remember(kept: &mut Vec<Recommendation>, asked: u64, now: Timestamp, window: SignedDuration) {
    let asked = replicas(asked);
    if kept.last().is_none_or(|last| last.high != asked) {
        kept.push(Recommendation {
            at: Some(Time(now)),
            low: asked,
            high: asked,
        });
    }
    // The one that holds at the window's beginning stays.
    let is_old = |entry: &Recommendation| entry.at.as_ref().is_none_or(|at| now.duration_since(at.0) > window);
    while kept.len() > 1 && is_old(&kept[1]) {
        kept.remove(0);
    }
    // Two that stand side by side become one that says both.
    while kept.len() > KEPT_MAX {
        let second = kept.remove(1);
        kept[0].low = kept[0].low.min(second.low);
        kept[0].high = kept[0].high.max(second.high);
    }
}

/// What was asked for at any moment of the window.
fn within(kept: &[Recommendation], now: Timestamp, window: SignedDuration) -> impl DoubleEndedIterator<Item = u64> {
    let begin = kept
        .iter()
        .rposition(|entry| entry.at.as_ref().is_some_and(|at| now.duration_since(at.0) >= window))
        .unwrap_or(0);
    kept[begin..]
        .iter()
        .flat_map(|entry| [entry.low, entry.high])
        .map(|value| u64::try_from(value).unwrap_or(1))
}

#[cfg(test)]
mod tests;
