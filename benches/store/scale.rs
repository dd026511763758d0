//! How lists and searches grow with the store: each question again and again, alone and beside 16 searchers; what the index takes of
//! the disk; and a program with that store that starts, is asked, and is left alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use can_sync::testing::record::AssetMeta;
use can_sync::testing::store::ContentStore;
use can_sync::testing::store::StoreError;
use can_sync::testing::store::embedded::{EmbeddedStore, ListFilter, ListQuery, Order};
use rusqlite::{Connection, OpenFlags};

use super::support::agent::Bins;
use super::support::figures::{Runs, Table, mib, ms, per_sec, say};
use super::support::http::get;
use super::support::process::Process;
use super::support::stores::{incoming, open};
use super::support::{Result, noise};

const ASSET_BYTES: usize = 8;
const BATCH: usize = 1000;
const SEARCHERS: usize = 16;
/// How often each question is asked.
const ALONE: usize = 200;
const BESIDE: usize = 40;
/// After the last question, until memory is looked at.
const CALM: Duration = Duration::from_secs(15);

const WORDS: [&str; 12] = [
    "holiday",
    "invoice",
    "sunset",
    "report",
    "meeting",
    "draft",
    "family",
    "garden",
    "mountain",
    "river",
    "backup",
    "screenshot",
];

/// What assets of a collection say of themselves; the same number says the same.
fn meta(i: usize, of: usize) -> AssetMeta {
    let word = |salt: usize| WORDS[(i * 7 + salt * (i / 5) + salt) % WORDS.len()];
    AssetMeta {
        mime_type: ["image/png", "text/plain", "video/mp4"][i % 3].into(),
        filename: Some(format!("{}-{}_{i:07}.{}", word(1), word(3), ["png", "txt", "mp4"][i % 3])),
        description: i.is_multiple_of(4).then(|| format!("A {} by the {}, number {i}", word(5), word(2))),
        application: i.is_multiple_of(10).then(|| "camera".into()),
        user: Some(["ann", "jörg"][usize::from(i.is_multiple_of(50))].into()),
        tags: if i.is_multiple_of(2) {
            vec!["common".into(), format!("tag {}", i % 100)]
        } else {
            Vec::new()
        },
        // Within the five years before they were stored.
        created_at_ms: 1_700_000_000_000 + (i * (157_680_000 / of) * 1000) as u64 + (i * 7919 % 1000) as u64,
        ..AssetMeta::default()
    }
}

async fn fill(store: &EmbeddedStore, assets: usize) -> Result<()> {
    for start in (0..assets).step_by(BATCH) {
        let batch = (start..assets.min(start + BATCH))
            .map(|i| incoming(noise(i as u64, ASSET_BYTES), meta(i, assets)))
            .collect();
        store.ingest(batch).await?;
    }
    Ok(())
}

/// A question, of which no two in a row are alike.
type Question = fn(usize, usize) -> ListQuery;

fn ask(filter: ListFilter) -> ListQuery {
    ListQuery { filter, ..ListQuery::default() }
}

fn words(q: String) -> ListFilter {
    ListFilter { q: Some(q), ..ListFilter::default() }
}

fn tagged(tag: &str) -> ListFilter {
    ListFilter { tags: vec![tag.to_owned()], ..ListFilter::default() }
}

const QUESTIONS: [(&str, Question); 20] = [
    ("the newest 50", |_, _| ListQuery::default()),
    ("the oldest 50", |_, _| ListQuery { order: Order::OldestFirst, ..ListQuery::default() }),
    ("a tag, 1 in 100", |n, _| ask(tagged(&format!("tag {}", n * 2 % 100)))),
    ("a tag, 1 in 2", |_, _| ask(tagged("common"))),
    ("any of two tags", |n, _| {
        let tags = vec![format!("tag {}", n * 2 % 100), "common".into()];
        ask(ListFilter { tags, ..ListFilter::default() })
    }),
    ("type, 1 in 3", |_, _| ask(ListFilter { mime_prefix: Some("image/".into()), ..ListFilter::default() })),
    ("application, 1 in 10", |_, _| {
        ask(ListFilter { application: Some("camera".into()), ..ListFilter::default() })
    }),
    ("a month of five years", |n, _| {
        let from_ms = Some(1_700_000_000_000 + (n % 60) as u64 * 2_600_000_000);
        ask(ListFilter { from_ms, to_ms: from_ms.map(|from| from + 2_600_000_000), ..ListFilter::default() })
    }),
    ("type, tag and user", |n, _| {
        ask(ListFilter {
            mime_prefix: Some("image/".into()),
            user: Some("jörg".into()),
            ..tagged(&format!("tag {}", n * 2 % 100))
        })
    }),
    ("type and common tag", |_, _| {
        ask(ListFilter { mime_prefix: Some("video/".into()), ..tagged("common") })
    }),
    ("q: nowhere", |n, _| ask(words(format!("nowhere{n}")))),
    ("q: one asset", |n, of| ask(words(format!("{:07}", n * 7919 % of)))),
    ("q: 1 in 6", |n, _| ask(words(WORDS[n % 12].to_owned()))),
    ("q: all (.)", |_, _| ask(words(".".into()))),
    ("q: 1 in 3 (.png)", |_, _| ask(words(".PNG".into()))),
    ("q: two words", |n, _| ask(words(format!("{} {}", WORDS[n % 12], WORDS[(n + 5) % 12])))),
    ("q: two letters", |n, _| ask(words(["ho", "zz", "ji", "by", "q1", "fa"][n % 6].into()))),
    ("q and type", |n, _| {
        ask(ListFilter { mime_prefix: Some("text/".into()), ..words(WORDS[n % 12].to_owned()) })
    }),
    ("q and a tag", |n, _| {
        ask(ListFilter { tags: vec![format!("tag {}", n * 2 % 100)], ..words(WORDS[n % 12].to_owned()) })
    }),
    ("q and a common tag", |n, _| {
        ask(ListFilter { tags: vec!["common".into()], ..words(format!("{}", 1000 + n)) })
    }),
];

/// Asks until it is told to stop; as other programs do, again when it is refused.
async fn search_on(store: EmbeddedStore, of: usize, first: usize, stop: Arc<AtomicBool>) -> Result<()> {
    let mut n = first;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let (_, question) = QUESTIONS[10 + n % 10];
        match store.list(question(n, of)).await {
            Ok(_) => {}
            Err(StoreError::Busy(_)) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn measure(
    store: &EmbeddedStore,
    question: Question,
    of: usize,
    times: usize,
) -> Result<(Runs, String)> {
    let (mut runs, mut total) = (Runs::default(), String::new());
    for n in 0..times {
        let query = question(n, of);
        let began = Instant::now();
        let page = store.list(query).await?;
        runs.add(began.elapsed());
        total = format!("{}{}", page.total, if page.total_is_bound { "+" } else { "" });
    }
    Ok((runs, total))
}

/// What a store of one size came to.
struct Measured {
    of: usize,
    answers: Vec<(Runs, Runs, String)>,
    facts: Vec<(&'static str, String)>,
}

async fn measure_store(bins: &Bins, data_dir: &Path, of: usize) -> Result<Measured> {
    // Where a program with this data directory has it.
    let dir = &data_dir.join("store");
    let mut facts = Vec::new();
    let store = open(dir).await?;
    let began = Instant::now();
    fill(&store, of).await?;
    facts.push(("ingest from a peer", format!("{:.0}/s", per_sec(of, began.elapsed()))));
    say(&format!("{of} assets are stored after {:.0} s", began.elapsed().as_secs_f64()));
    store.close().await;
    facts.extend(disk(dir)?);

    let began = Instant::now();
    let store = open(dir).await?;
    facts.push(("open", format!("{:.0} ms", ms(began.elapsed()))));
    let mut alone = Vec::new();
    for (_, question) in QUESTIONS {
        alone.push(measure(&store, question, of, ALONE).await?);
    }
    say(&format!("{of} assets: asked alone"));
    let stop = Arc::new(AtomicBool::new(false));
    let searchers: Vec<_> = (0..SEARCHERS)
        .map(|first| tokio::spawn(search_on(store.clone(), of, first * 31, Arc::clone(&stop))))
        .collect();
    let mut answers = Vec::new();
    for ((_, question), (runs, total)) in QUESTIONS.into_iter().zip(alone) {
        let (beside, _) = measure(&store, question, of, BESIDE).await?;
        answers.push((runs, beside, total));
    }
    stop.store(true, Ordering::Relaxed);
    for searcher in searchers {
        searcher.await??;
    }
    say(&format!("{of} assets: asked beside {SEARCHERS} searchers"));
    assert_eq!(store.status().await?.assets, of as u64, "nothing was lost");
    store.close().await;
    facts.extend(program(bins, data_dir, of).await?);
    Ok(Measured { of, answers, facts })
}

/// What the index takes of the database.
fn disk(dir: &Path) -> Result<Vec<(&'static str, String)>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(dir.join("store.db"), flags)?;
    let bytes = |of: &str| -> Result<u64> {
        let sql = format!("SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE aggregate = TRUE AND ({of})");
        Ok(u64::try_from(database.query_row(&sql, [], |row| row.get::<_, i64>(0))?)?)
    };
    let (all, words) = (bytes("true")?, bytes("name LIKE 'words%'")?);
    let facets = bytes("name LIKE 'facet%' OR name = 'records_by_list_key'")?;
    let mb = |bytes: u64| format!("{:.0} MiB", mib(bytes));
    Ok(vec![("database", mb(all)), ("of that the words", mb(words)), ("of that keys and facets", mb(facets))])
}

/// A program that serves the store: its start, and its memory.
async fn program(bins: &Bins, dir: &Path, of: usize) -> Result<Vec<(&'static str, String)>> {
    let mut command = Command::new(bins.service());
    command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(dir);
    let mut process = Process::spawn(command.stderr(std::process::Stdio::null()))?;
    let (line, ready) = process.first_line().await?;
    let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let idle = process.memory("VmRSS")?;
    let questions = ["q=holiday", "q=nowhere", "tags=common", "mime_prefix=image/", "q=zz", "limit=1000"];
    let asks = (0..16).map(|n| {
        let url = url.clone();
        async move {
            for m in 0..50 {
                get(&format!("{url}/search?{}", questions[(n + m) % questions.len()])).await?;
            }
            Result::Ok(())
        }
    });
    futures::future::try_join_all(asks).await?;
    // The whole feed, as an agent reads it once it starts.
    let mut seen = 0;
    let mut cursor = String::new();
    while seen < of {
        let page = get(&format!("{url}/list?limit=1000{cursor}")).await?;
        seen += page["assets"].as_array().map_or(0, Vec::len);
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, of, "the program serves another store");
    let peak = process.memory("VmHWM")?;
    tokio::time::sleep(CALM).await;
    let after = process.memory("VmRSS")?;
    process.stop().await?;
    let mb = |bytes: u64| format!("{:.0} MiB", mib(bytes));
    Ok(vec![
        ("start of the program", format!("{:.0} ms", ms(ready))),
        ("its memory, idle", mb(idle)),
        ("asked by 16, and all listed, at most", mb(peak)),
        ("idle again", mb(after)),
    ])
}

pub(super) async fn scale(bins: &Bins, sizes: &[usize], dir: PathBuf) -> Result<()> {
    let mut all = Vec::new();
    for of in sizes {
        let dir = dir.join(of.to_string());
        all.push(measure_store(bins, &dir, *of).await?);
        std::fs::remove_dir_all(dir)?;
    }
    let heads: Vec<String> = all.iter().map(|one| format!("{} assets", one.of)).collect();
    let columns = |first: &'static str, width| {
        let mut columns = vec![(first, width)];
        columns.extend(heads.iter().map(|head| (head.as_str(), 42)));
        Table::new(&columns)
    };
    let table = columns("p50 / p99 alone, beside 16 searchers, ms; how many", 38);
    for (row, (what, _)) in QUESTIONS.iter().enumerate() {
        let cell = |(alone, beside, total): &(Runs, Runs, String)| {
            let pair = |runs: &Runs| format!("{:.2} / {:.2}", ms(runs.at(50)), ms(runs.at(99)));
            format!("{}, {}; {total}", pair(alone), pair(beside))
        };
        let cells = all.iter().map(|one| cell(&one.answers[row]));
        table.row(&std::iter::once((*what).to_owned()).chain(cells).collect::<Vec<_>>());
    }
    let table = columns("the store", 38);
    for row in 0..all.first().map_or(0, |one| one.facts.len()) {
        let what = all[0].facts[row].0.to_owned();
        let cells = all.iter().map(|one| one.facts[row].1.clone());
        table.row(&std::iter::once(what).chain(cells).collect::<Vec<_>>());
    }
    Ok(())
}
