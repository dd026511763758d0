//! How what is kept of folders is written: versions as on the wire, the rest as JSON.

use data_encoding::HEXLOWER;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::RowsFailure;
use crate::entry::{EntryHash, EntryPath, EntryRecord, FolderRecord};
use crate::folder::files::{JournalNote, NoteId, NoteStep, OwnPath};
use crate::folder::{AgreedRow, FolderBrake, OnDisk};
use crate::wire::decode::decode;
use crate::wire::proto::WireEntry;

#[derive(Serialize, Deserialize)]
struct RowText {
    record: String,
    disk: Option<OnDisk>,
}

#[derive(Serialize, Deserialize)]
struct NoteText {
    step: u8,
    entry: String,
    over: Option<RowText>,
    name: String,
    temporary: Option<String>,
    trash: String,
    at_ms: u64,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct BrakeText {
    held: Vec<String>,
    confirmed: Vec<String>,
    passed: Vec<(u64, u64)>,
}

pub(super) fn record_bytes(entry: &EntryRecord) -> Vec<u8> {
    WireEntry::from(&FolderRecord::Entry(entry.clone())).encode_to_vec()
}

pub(super) fn record_of(bytes: &[u8]) -> Result<EntryRecord, RowsFailure> {
    let wire: WireEntry = decode(bytes.to_vec().into())?;
    match FolderRecord::try_from(wire)? {
        FolderRecord::Entry(entry) => Ok(entry),
        FolderRecord::Definition(_) => Err("a row says what a folder is".into()),
    }
}

/// As JSON, which all of these can be.
fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn disk_text(disk: &OnDisk) -> String {
    text_of(disk)
}

pub(super) fn disk_of(text: &str) -> Result<OnDisk, RowsFailure> {
    Ok(serde_json::from_str(text)?)
}

pub(super) fn note_text(note: &JournalNote) -> String {
    let row = |row: &AgreedRow| RowText {
        record: HEXLOWER.encode(&record_bytes(&row.entry)),
        disk: row.disk.clone(),
    };
    let text = NoteText {
        step: match note.step {
            NoteStep::Write => 0,
            NoteStep::Remove => 1,
            NoteStep::Old => 2,
        },
        entry: HEXLOWER.encode(&record_bytes(&note.entry)),
        over: note.over.as_ref().map(row),
        name: note.name.as_str().to_owned(),
        temporary: note.temporary.as_ref().map(|path| path.as_str().to_owned()),
        trash: note.trash.as_str().to_owned(),
        at_ms: note.at_ms,
    };
    text_of(&text)
}

pub(super) fn note_of(id: NoteId, text: &str) -> Result<JournalNote, RowsFailure> {
    let text: NoteText = serde_json::from_str(text)?;
    let record = |hex: &str| record_of(&HEXLOWER.decode(hex.as_bytes())?);
    let own = |path: &str| OwnPath::parse(path).ok_or("the journal names a file that is none of ours");
    let row = |row: RowText| -> Result<AgreedRow, RowsFailure> {
        Ok(AgreedRow { entry: record(&row.record)?, disk: row.disk })
    };
    Ok(JournalNote {
        id,
        step: match text.step {
            0 => NoteStep::Write,
            1 => NoteStep::Remove,
            2 => NoteStep::Old,
            _ => return Err("the journal has a step that is not known".into()),
        },
        entry: record(&text.entry)?,
        over: text.over.map(row).transpose()?,
        name: EntryPath::parse(&text.name)?,
        temporary: text.temporary.as_deref().map(own).transpose()?,
        trash: own(&text.trash)?,
        at_ms: text.at_ms,
    })
}

pub(super) fn brake_text(brake: &FolderBrake) -> String {
    let hex = |hash: &EntryHash| HEXLOWER.encode(&hash.0);
    let text = BrakeText {
        held: brake.held.iter().map(hex).collect(),
        confirmed: brake.confirmed.iter().map(hex).collect(),
        passed: brake.passed.iter().map(|(minute, count)| (*minute, *count)).collect(),
    };
    text_of(&text)
}

pub(super) fn brake_of(text: &str) -> Result<FolderBrake, RowsFailure> {
    let text: BrakeText = serde_json::from_str(text)?;
    let hash = |hex: &String| -> Result<EntryHash, RowsFailure> {
        let bytes = HEXLOWER.decode(hex.as_bytes())?;
        Ok(EntryHash(bytes.try_into().map_err(|_| "the brake names what is no entry")?))
    };
    Ok(FolderBrake {
        held: text.held.iter().map(hash).collect::<Result<_, _>>()?,
        confirmed: text.confirmed.iter().map(hash).collect::<Result<_, _>>()?,
        passed: text.passed.into_iter().collect(),
    })
}
