//! Promises in `GET /why/{hash}`: to whom a content is promised, and who promised to keep what was let go of here.

use tokio::time::timeout;

use super::super::view::{ASK_TIMEOUT, AgentView};
use super::called;
use crate::clock::span;
use crate::peer::report::PromiseReport;
use crate::record::ContentHash;

/// Machines that this one promised to keep a content. What the store does not say in time is left out.
pub(super) async fn given(view: &AgentView, hash: ContentHash) -> Vec<PromiseReport> {
    let standing = timeout(ASK_TIMEOUT, view.store.standing(hash)).await;
    let promises = standing.ok().and_then(Result::ok).unwrap_or_default().promises;
    if promises.is_empty() {
        return Vec::new();
    }
    let peers = view.peers_report().await.map(|report| report.peers).unwrap_or_default();
    let name_of = |id: &str| {
        let known = peers.iter().find(|peer| peer.endpoint_id == id);
        known.map(|peer| peer.name.clone()).unwrap_or_default()
    };
    let report = |given: crate::store::promises::GivenPromise| {
        let endpoint_id =
            iroh::EndpointId::from_bytes(&given.to).map(|id| id.to_string()).unwrap_or_default();
        PromiseReport { name: name_of(&endpoint_id), endpoint_id, lasts_secs: given.lasts.as_secs() }
    };
    promises.into_iter().map(report).collect()
}

/// The same in words, after what else there is to say.
pub(super) fn explain(given: &[PromiseReport], taken: &[PromiseReport]) -> String {
    let given = given.iter().map(|promise| {
        format!(
            " It is promised to {}, which may count on it: for {} more it goes here only if a user deletes it.",
            called(&promise.name, &promise.endpoint_id),
            span(promise.lasts_secs.saturating_mul(1000))
        )
    });
    let taken = taken.iter().map(|promise| {
        let name = called(&promise.name, &promise.endpoint_id);
        if promise.lasts_secs == 0 {
            format!(" {name} promised to keep it for a day, which is over.")
        } else {
            let lasts = span(promise.lasts_secs.saturating_mul(1000));
            format!(" {name} promised to keep it, for {lasts} more at least.")
        }
    });
    given.chain(taken).collect::<Vec<String>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_told_of_whom_and_for_how_long() {
        let promise =
            |lasts_secs| PromiseReport { endpoint_id: "ab".repeat(32), name: "desk".into(), lasts_secs };
        assert_eq!(explain(&[], &[]), "");
        let text = explain(&[promise(7_200)], &[promise(3_600), promise(0)]);
        assert!(text.contains("promised to desk (ababababab), which may count on it: for 2 hours"), "{text}");
        assert!(text.ends_with("for a day, which is over."), "{text}");
    }
}
