//! `GET /why/{hash}`: who has a content, and why it is not here yet.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytesize::ByteSize;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::envelope::Success;
use super::view::{ASK_TIMEOUT, ApiState, PEERS, ask};
use super::{ApiError, ApiResult};
use crate::peer::messages::PeersMsg;
use crate::peer::report::{SourceReport, SourceState, WhyReport};
use crate::record::{AssetRecord, ContentHash};

/// Where a content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Whereabouts {
    /// In the store.
    Here,
    /// It was here, and was deleted.
    Deleted,
    /// Nothing is fetched at the moment.
    Paused,
    /// All of it came; it is being checked and stored.
    Checking,
    /// Peers were asked for it.
    OnItsWay,
    /// Somebody has it, and it waits for its turn.
    Waiting,
    /// Nobody who is connected can give it.
    Failed,
}

/// The answer of `GET /why/{hash}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct WhyView {
    /// CAN hash.
    hash: String,
    /// Where it stands.
    state: Whereabouts,
    /// The same in a sentence or two, for people.
    explanation: String,
    /// Size of the content in bytes, where it is known.
    size: Option<u64>,
    /// Bytes of it that are here, of a large one that is not complete.
    done: u64,
    /// Endpoint id of the only peer that is asked, after wrong bytes came from one of several.
    only: Option<String>,
    /// Who has it, or was to send it and did not.
    sources: Vec<SourceReport>,
}

/// Why a content is not here
#[utoipa::path(
    get,
    path = "/why/{hash}",
    tag = "peers",
    params(("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits.")),
    responses(
        (status = 200, body = Success<WhyView>),
        (status = 400, description = "That is no CAN hash."),
        (status = 404, description = "Nobody knows of it."),
        (status = 503, description = "PeersActor or the store does not answer.")
    )
)]
pub(super) async fn why(
    State(state): State<ApiState>,
    Path(hash): Path<String>,
) -> ApiResult<Success<WhyView>> {
    let hash: ContentHash = hash.parse().map_err(|_| {
        let hint = "a CAN hash has 64 hexadecimal digits";
        ApiError::new(StatusCode::BAD_REQUEST, "bad_hash", "that is no CAN hash", hint)
    })?;
    let record = record(&state, hash).await?;
    let report = ask(&state.view.peers, PEERS, |reply| PeersMsg::GetWhy { hash, reply }).await?;
    let whereabouts = whereabouts(record.as_ref(), &report).ok_or_else(|| unknown(&report))?;
    Ok(Success::new(WhyView {
        hash: hash.to_string(),
        state: whereabouts,
        explanation: explain(whereabouts, record.as_ref(), &report),
        size: record.map(|record| record.size).or(report.size),
        done: report.done,
        only: report.only,
        sources: report.sources,
    }))
}

async fn record(state: &ApiState, hash: ContentHash) -> ApiResult<Option<AssetRecord>> {
    let records = timeout(ASK_TIMEOUT, state.view.store.records(vec![hash])).await;
    let reason = match records {
        Ok(Ok(records)) => return Ok(records.into_iter().next()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the store did not answer within {} s", ASK_TIMEOUT.as_secs()),
    };
    let hint = "GET /status shows the store's health";
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", reason, hint))
}

fn unknown(report: &WhyReport) -> ApiError {
    let message = match report.connected {
        0 => "it is not here, and no peer is connected that could have it".to_owned(),
        1 => "it is not here, and the one connected peer has not said that it has it".to_owned(),
        n => format!("it is not here, and none of the {n} connected peers has said that it has it"),
    };
    let hint = "check the hash; GET /peers shows who is connected, POST /verify compares with them afresh";
    ApiError::new(StatusCode::NOT_FOUND, "unknown_asset", message, hint)
}

/// Where it stands; `None` if nobody knows of it.
fn whereabouts(record: Option<&AssetRecord>, report: &WhyReport) -> Option<Whereabouts> {
    Some(match record {
        Some(record) if !record.deleted => Whereabouts::Here,
        _ if report.wanted && report.complete && report.paused.is_none() => Whereabouts::Checking,
        _ if report.wanted && report.paused.is_some() => Whereabouts::Paused,
        _ if report.sources.iter().any(|source| source.state == SourceState::Sending) => {
            Whereabouts::OnItsWay
        }
        _ if report.wanted => Whereabouts::Waiting,
        Some(_) => Whereabouts::Deleted,
        None if !report.sources.is_empty() => Whereabouts::Failed,
        None => return None,
    })
}

fn explain(whereabouts: Whereabouts, record: Option<&AssetRecord>, report: &WhyReport) -> String {
    let named = |state: SourceState| {
        let names = report.sources.iter().filter(|source| source.state == state).map(name);
        names.collect::<Vec<String>>().join(", ")
    };
    let size = record.map(|record| record.size).or(report.size).unwrap_or(0);
    let mut text = match whereabouts {
        Whereabouts::Here => "It is here.".to_owned(),
        Whereabouts::Deleted => "It was here, and was deleted.".to_owned(),
        Whereabouts::Paused => {
            format!("Nothing is fetched now: {}.", report.paused.as_deref().unwrap_or("the store is busy"))
        }
        Whereabouts::Checking => "All of it came, and it is being checked and stored.".to_owned(),
        Whereabouts::OnItsWay => format!(
            "It is on its way from {}: {} of {}.",
            named(SourceState::Sending),
            ByteSize(report.done).display().iec(),
            ByteSize(size).display().iec()
        ),
        Whereabouts::Waiting => {
            format!("{} could send it; it waits for its turn.", named(SourceState::HasIt))
        }
        Whereabouts::Failed => {
            "Nobody who is connected can give it now; it is asked for again when it is offered again."
                .to_owned()
        }
    };
    if report.only.is_some() {
        text.push_str(" One of several peers sent wrong bytes, so one of them is asked alone.");
    }
    if whereabouts != Whereabouts::Here {
        for source in &report.sources {
            if let Some(error) = &source.last_error {
                text.push_str(" From ");
                text.push_str(&name(source));
                text.push_str(" it did not come: ");
                text.push_str(error);
                text.push('.');
            }
        }
    }
    text
}

fn name(source: &SourceReport) -> String {
    let short: String = source.endpoint_id.chars().take(10).collect();
    if source.name.is_empty() { short } else { format!("{} ({short})", source.name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AssetMeta;

    #[test]
    fn every_case_has_its_sentence() {
        let mut record = AssetRecord::new(ContentHash([1; 32]), 5 << 20, None, AssetMeta::default());
        let mut report = WhyReport::default();
        let say = |record: Option<&AssetRecord>, report: &WhyReport| {
            whereabouts(record, report).map(|state| (state, explain(state, record, report)))
        };
        assert_eq!(say(None, &report), None);
        assert_eq!(say(Some(&record), &report).unwrap().0, Whereabouts::Here);
        record.deleted = true;
        assert_eq!(say(Some(&record), &report).unwrap().0, Whereabouts::Deleted);
        let liar = SourceReport {
            endpoint_id: "b".repeat(64),
            last_error: Some("it sent wrong bytes".into()),
            state: SourceState::Lied,
            ..SourceReport::default()
        };
        report.sources.push(liar);
        let (state, text) = say(None, &report).unwrap();
        assert_eq!(state, Whereabouts::Failed);
        assert!(text.contains("bbbbbbbbbb it did not come: it sent wrong bytes"), "{text}");
        report.wanted = true;
        report.size = Some(5 << 20);
        report.sources.push(SourceReport {
            endpoint_id: "a".repeat(64),
            name: "desk".into(),
            state: SourceState::HasIt,
            ..SourceReport::default()
        });
        let (state, text) = say(None, &report).unwrap();
        assert!(
            state == Whereabouts::Waiting && text.starts_with("desk (aaaaaaaaaa) could send it"),
            "{text}"
        );
        report.sources[1].state = SourceState::Sending;
        report.done = 1 << 20;
        let (state, text) = say(None, &report).unwrap();
        assert!(state == Whereabouts::OnItsWay && text.contains("1.0 MiB of 5.0 MiB"), "{text}");
        report.complete = true;
        assert_eq!(say(None, &report).unwrap().0, Whereabouts::Checking);
        report.paused = Some("the disk is full".into());
        let (state, text) = say(None, &report).unwrap();
        assert!(state == Whereabouts::Paused && text.contains("the disk is full"), "{text}");
    }
}
