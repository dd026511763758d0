//! Opening a store, and putting right what a crash left behind.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Semaphore, watch};

use super::anchors::Anchors;
use super::failure::Abort;
use super::found::FoundOnDisk;
use super::index::build::Building;
use super::index::words::WordsBehind;
use super::layout::Layout;
use super::loss::SeqMark;
use super::objects::{self, Objects};
use super::purge::Purging;
use super::quota::Quota;
use super::readers::Readers;
use super::runs::ClockWatch;
use super::space::Space;
use super::tx::Totals;
use super::writer::{Msg, StoreWriter, clean_pending};
use super::{EmbeddedConfig, EmbeddedStore, QUEUE_TASKS, StoreInner, StoreShared, schema};
use crate::clock::Clock;
use crate::disk;
use crate::record::WriterId;
use crate::store::bucket::preflight::place_problem;
use crate::store::bucket::{BucketConfig, IfMissing};
use crate::store::{StoreId, StoreResult};

/// Opens the store; see [`EmbeddedStore::open`]. Blocks.
pub(super) fn open(config: EmbeddedConfig, bucket: Option<&BucketConfig>) -> StoreResult<EmbeddedStore> {
    let layout = Layout { dir: config.dir };
    let began = Instant::now();
    let store = try_open(&layout, config.disk_reserve_bytes, config.clock, bucket).map_err(|abort| {
        abort
            .or_full(&layout.tmp())
            .answer(&format!("open the store in {}", layout.dir.display()), &layout.dir)
    })?;
    tracing::debug!(dir = %layout.dir.display(), elapsed = ?began.elapsed(), "the store is open");
    Ok(store)
}

fn try_open(
    layout: &Layout,
    reserve_bytes: u64,
    clock: Clock,
    bucket: Option<&BucketConfig>,
) -> Result<EmbeddedStore, Abort> {
    let io = |action: &str| {
        let action = format!("{action} {}", layout.dir.display());
        move |source| Abort::Io { action, source }
    };
    let found = FoundOnDisk::look(layout)?;
    layout.create().map_err(io("make the store's directories in"))?;
    let lock = lock(layout)?;
    layout.sweep_tmp().map_err(io("remove temporary files from"))?;

    let mut conn =
        schema::open_for_writing(&layout.database()).map_err(|abort| explained(abort, &layout.database()))?;
    super::layout::sync_dir(&layout.dir).map_err(io("fsync"))?;
    disk::dir_sync_problem(&layout.dir).inspect(|weakness| tracing::warn!("{weakness}"));
    let (mut totals, mut mark) = (Totals::read(&conn)?, SeqMark::open(&layout.mark()));
    super::loss::notice(&mut conn, layout, &mut totals, &mark, clock.now_ms())?;
    begin_run(&mut conn, &mut totals, &mut mark, clock.own_ms())?;
    let half = found.half(&mut conn, layout, clock.now_ms())?;
    let notices: Vec<String> = mark.problem.take().into_iter().chain(half.sentences).collect();
    let (writer_id, store_id) =
        conn.query_row("SELECT writer_id, store_id FROM state", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    clean_pending(&mut conn, layout, None)?;
    let purging = begin_purging(&mut conn, layout, &mut totals, &clock)?;

    let (objects, bucket_missing) = open_objects(&conn, layout, bucket)?;
    let (seq, seen) = watch::channel(totals.last_seq);
    let read_only: Arc<Mutex<Option<String>>> = Arc::default();
    let anchors = Arc::new(Anchors::note(layout));
    let shared = Arc::new(StoreShared {
        id: StoreId(store_id),
        anchors: Arc::clone(&anchors),
        space: Space::new(layout.dir.clone(), reserve_bytes, objects::cache_of(objects.as_ref())),
        quota: Quota::open(&conn, &totals)?,
        promises: super::keeping::PromiseTimes::open(&conn, clock.uptime())?,
        readers: Readers::new(layout.dir.clone(), layout.database(), anchors, Arc::clone(&read_only)),
        layout: layout.clone(),
        files_missing: half.files_missing,
        objects,
        bucket_missing,
        opened_with: (!notices.is_empty()).then(|| notices.join("; ")),
        commits: AtomicU64::new(0),
        purge_floor: AtomicU64::new(totals.purge_floor),
        read_only,
        clock: clock.clone(),
        walks: Mutex::new(VecDeque::new()),
        damage: super::damage::DamageWatch::default(),
        scrub: super::scrub::Scrubbing::default(),
        sums: super::sums::SumMakers::default(),
        building: Building::begin(&conn)?,
        trees: super::proofs::SumTrees::default(),
        unreadable_entries: super::entries::UnreadableEntries::default(),
        targets_deleted: Arc::default(),
        seq: seen,
    });
    shared.space.lay_by();
    // One more than there are turns: for the message that ends the writer.
    let (queue, queued) = std::sync::mpsc::sync_channel(QUEUE_TASKS + 1);
    let writer = StoreWriter {
        words: WordsBehind::count(&conn, &totals)?,
        probe: schema::open_for_reading(&layout.database())?,
        conn,
        layout: layout.clone(),
        id: WriterId(writer_id),
        totals,
        shared: Arc::clone(&shared),
        seq,
        since_checkpoint: 0,
        has_cached: true,
        has_pending: false,
        clock_watch: ClockWatch::new(clock.clone()),
        clock,
        purging,
        mark,
        unread_since: None,
        _lock: lock,
    };
    let writer =
        start(writer, queued, Arc::clone(&shared)).map_err(io("start the writer of the store in"))?;
    Ok(EmbeddedStore(Arc::new(StoreInner {
        shared,
        queue: Mutex::new(Some(queue)),
        turns: Arc::new(Semaphore::new(QUEUE_TASKS)),
        writer: Mutex::new(Some(writer)),
    })))
}

/// Mends what was set aside, and purges what is old.
fn begin_purging(
    conn: &mut Connection,
    layout: &Layout,
    totals: &mut Totals,
    clock: &Clock,
) -> Result<Purging, Abort> {
    super::aside::mend(conn, layout, clock.now_ms())?;
    let mut purging = Purging::new(conn, clock.clone())?;
    purging.look(conn, layout, totals)?;
    Ok(purging)
}

/// The bucket, where there is one; or that contents are in one, and none is configured.
fn open_objects(
    conn: &Connection,
    layout: &Layout,
    bucket: Option<&BucketConfig>,
) -> Result<(Option<Objects>, Option<String>), Abort> {
    match bucket {
        Some(config) => {
            if let Some(problem) = place_problem(&config.place, &layout.dir) {
                return Err(Abort::Refused(format!("store.content: {problem}")));
            }
            let if_missing = if objects::has_place(conn)? { IfMissing::Refuse } else { IfMissing::Make };
            let opened = Objects::open(config, layout.cache(), if_missing).map_err(Abort::Refused)?;
            Ok((Some(opened), None))
        }
        None => Ok((None, objects::unconfigured(conn)?)),
    }
}

/// Has the writer do what is queued, in a thread of its own.
fn start(writer: StoreWriter, queued: Receiver<Msg>, shared: Arc<StoreShared>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("store-writer".into()).spawn(move || {
        let run = AssertUnwindSafe(|| writer.run(&queued));
        if catch_unwind(run).is_err() {
            shared.set_read_only("its writer failed by a defect of this program; start again".into());
        }
    })
}

/// With what the file system cannot do, if that is the reason.
fn explained(abort: Abort, database: &Path) -> Abort {
    let problem = match &abort {
        Abort::Sql(error) => disk::database_problem(database, error),
        Abort::Io { .. } | Abort::Refused(_) => None,
    };
    problem.map_or(abort, Abort::Refused)
}

/// Begins a run of numbers, behind all that are known to have been given out.
fn begin_run(
    conn: &mut Connection,
    totals: &mut Totals,
    mark: &mut SeqMark,
    now_ms: u64,
) -> Result<(), Abort> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    super::runs::begin(&transaction, totals, mark.acknowledged().seq, now_ms)?;
    transaction.commit()?;
    mark.set(totals);
    Ok(())
}

/// Gives a store that nobody has open another id to write by, where there is one; see [`EmbeddedStore::renew_writer`]. Blocks.
pub(super) fn renew_writer(layout: &Layout) -> StoreResult {
    let renewed = || {
        if !layout.database().exists() {
            return Ok(());
        }
        let _lock = lock(layout)?;
        let conn = schema::open_for_writing(&layout.database())?;
        conn.execute("UPDATE state SET writer_id = randomblob(32)", [])?;
        Ok(())
    };
    renewed().map_err(|abort: Abort| {
        abort.answer(&format!("change who writes in the store in {}", layout.dir.display()), &layout.dir)
    })
}

/// Takes the directory for this process alone.
fn lock(layout: &Layout) -> Result<File, Abort> {
    let path = layout.lock();
    let action = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| Abort::Io { action: action(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Abort::Refused(
            "another process has it open: stop that one, or choose another directory".into(),
        )),
        Err(TryLockError::Error(source)) => Err(match disk::lock_problem(&path, &source) {
            Some(problem) => Abort::Refused(problem),
            None => Abort::Io { action: action(), source },
        }),
    }
}
