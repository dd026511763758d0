//! Which folder of `src/` may know which. The table is that of the crate's documentation and of CONTRIBUTING.md; a module
//! imports from strictly lower lines only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the top: each line may import from the lines below it.
const LAYERS: &[&[&str]] = &[
    &["cli", "testing"],
    &["node"],
    &["api", "feed"],
    &["peer", "folder"],
    &["transfer"],
    &["library"],
    &["discovery"],
    &["store", "net"],
    &["actor", "http", "wire", "reconcile"],
    &["entry"],
    &["record", "events", "clock", "text", "identity", "config", "qr", "stderr", "seeded"],
    &["disk"],
];

/// Modules that decide and do nothing: time and randomness come in as arguments.
const PURE: &[&str] = &[
    "actor::policy",
    "actor::restart",
    "clock::evidence",
    "discovery::announcement",
    "discovery::directory",
    "discovery::pace",
    "discovery::slot",
    "entry",
    "folder::answers",
    "folder::brake",
    "folder::plan",
    "folder::sight",
    "peer::deferrals::notes",
    "peer::doubles",
    "peer::letting_go",
    "peer::roster",
    "peer::session",
    "peer::wishes",
    "reconcile",
    "record",
    "store::groups",
    "store::promises",
    "transfer::fetching",
    "transfer::schedule",
    "wire::decode",
];

/// What a pure module does not name: runtime, sockets, files, the time of day.
const IMPURE: &[&str] = &[
    "ractor",
    "iroh::endpoint",
    "tokio::net",
    "tokio::task",
    "tokio::spawn",
    "tokio::fs",
    "std::fs",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::time::SystemTime",
    "crate::clock::now_ms",
];

#[test]
fn imports_point_down_and_pure_modules_stay_pure() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 100, "only {} files were found", sources.len());
    let (mut faults, mut imports) = (Vec::new(), BTreeSet::new());
    for (module, text) in &sources {
        faults.extend(faults_of(module, text, &mut imports));
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    // That the walk sees imports at all.
    assert!(imports.contains(&("cli".to_owned(), "config".to_owned())), "{imports:?}");
    println!("{} imports between folders, none of them up, so there is no circle", imports.len());
}

#[test]
fn the_tables_in_the_documentation_are_this_one() {
    let table: Vec<String> = LAYERS.iter().map(|line| line.join(" ")).collect();
    for file in ["src/lib.rs", "CONTRIBUTING.md"] {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("it is there");
        let written: Vec<String> = text
            .lines()
            .map(|line| line.trim_start_matches("//!").trim())
            .skip_while(|line| !line.starts_with("cli "))
            .take(LAYERS.len())
            .map(|line| line.split("  ").next().unwrap_or_default().replace(" |", ""))
            .collect();
        assert_eq!(written, table, "in {file}");
    }
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("it is there");
    for module in PURE {
        assert!(
            lib.contains(&format!("[`{module}`]")),
            "{module} is not among the pure modules of src/lib.rs"
        );
    }
}

#[test]
fn planted_faults_are_found() {
    let found = |module: &str, text: &str| {
        let module = module.split("::").map(str::to_owned).collect::<Vec<_>>();
        faults_of(&module, text, &mut BTreeSet::new())
    };
    assert!(
        found("store::embedded", "use crate::record::ContentHash;\nuse crate::store::StoreRef;").is_empty()
    );
    for up in [
        "use crate::peer::session::Session;",
        "use crate::{record, peer::session};",
        "use crate::{\n    record,\n    cli,\n};",
        "fn f() { let _ = crate::node::Node::start; }",
        "use super::super::peer::session;",
        "#[cfg(test)]\nmod tests {\n    use super::super::super::peer::roster;\n}",
        // A neighbour on the same line is not below either.
        "use crate::net::endpoint;",
    ] {
        assert_eq!(found("store::embedded", up).len(), 1, "{up}");
    }
    assert!(
        found("store::embedded", "// crate::peer\n/// [`crate::peer::session`]\nuse super::feed;").is_empty()
    );
    assert_eq!(found("cellar", "").len(), 1, "a folder that the table lacks");
    for impure in [
        "use std::fs;",
        "use std::{fs, io};",
        "use std::time::{Duration, SystemTime};",
        "use tokio::{\n    task::JoinSet,\n    time::Instant,\n};",
        "fn f() { tokio::spawn(async {}); }",
        "use ractor::ActorRef;",
        "use crate::clock::now_ms;",
    ] {
        assert!(!found("transfer::schedule::large", impure).is_empty(), "{impure}");
        assert!(found("transfer::send", impure).is_empty(), "{impure} is allowed there");
    }
}

/// Every file below `dir`, by the path of its module. The crate's root and the programs know everybody.
fn sources(dir: &Path) -> BTreeMap<Vec<String>, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("src can be listed") {
            let path: PathBuf = entry.expect("src can be listed").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(dir).expect("it is below").with_extension("");
                let module: Vec<String> =
                    relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                if !["lib", "main", "bin"].contains(&module[0].as_str()) {
                    found.insert(module, std::fs::read_to_string(&path).expect("it can be read"));
                }
            }
        }
    }
    found
}

/// What a module imports that it may not; the imports between folders are added to `imports`.
fn faults_of(module: &[String], text: &str, imports: &mut BTreeSet<(String, String)>) -> Vec<String> {
    let level = |folder: &str| LAYERS.iter().position(|line| line.contains(&folder));
    let (own, name) = (module[0].as_str(), module.join("::"));
    let Some(here) = level(own) else { return vec![format!("{name}: the table has no folder {own}")] };
    let is_pure = PURE.iter().any(|pure| name == *pure || name.starts_with(&format!("{pure}::")));
    let mut faults = Vec::new();
    for path in paths(module, text) {
        if let Some(folder) = path.strip_prefix("crate::").and_then(|rest| rest.split("::").next())
            && folder != own
        {
            match level(folder) {
                Some(there) if there > here => drop(imports.insert((own.to_owned(), folder.to_owned()))),
                // Macros and items of the crate's root.
                None if !folder.starts_with(char::is_lowercase) => {}
                Some(_) | None => faults.push(format!("{name}: {path} is not below {own}")),
            }
        }
        let is_impure = IMPURE.iter().any(|bad| path == *bad || path.starts_with(&format!("{bad}::")));
        if is_pure && is_impure {
            faults.push(format!("{name}: {path} in a module that is pure"));
        }
    }
    faults
}

/// Every path in the code that begins at a crate, with `super` resolved and groups spread out.
fn paths(module: &[String], text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |all, line| all + line + "\n");
    let bytes = code.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if !is_word(bytes[at]) {
            at += 1;
            continue;
        }
        let end = at + bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
        let continues_a_path = code[..at].trim_end().ends_with("::");
        if !continues_a_path && code[end..].starts_with("::") {
            let inline = enclosing(&code[..at]);
            at = spread(&code, at, "", &mut |path| found.push(absolute(module, inline, path)));
        } else {
            at = end;
        }
    }
    found
}

/// How many inline modules are open at the end of `before`, by the layout that `cargo fmt` gives.
fn enclosing(before: &str) -> usize {
    let mut open: Vec<usize> = Vec::new();
    for line in before.lines() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_end().ends_with('{') && line.split_whitespace().any(|word| word == "mod") {
            open.push(indent);
        } else if line.trim() == "}" && open.last() == Some(&indent) {
            open.pop();
        }
    }
    open.len()
}

/// Calls `take` for each path of the tree of paths that begins at `at`; returns where it ends.
fn spread(code: &str, mut at: usize, prefix: &str, take: &mut impl FnMut(&str)) -> usize {
    let skip = |at: usize| at + code[at..].len() - code[at..].trim_start().len();
    at = skip(at);
    if code[at..].starts_with('{') {
        at = skip(at + 1);
        while at < code.len() && !code[at..].starts_with('}') {
            let before = at;
            at = skip(spread(code, at, prefix, take));
            // Past the comma, a rename, or whatever else stands there.
            while at < code.len() && !code[at..].starts_with([',', '}']) {
                at += code[at..].chars().next().map_or(1, char::len_utf8);
            }
            at = if code[at..].starts_with(',') { skip(at + 1) } else { at };
            if at == before {
                break;
            }
        }
        return (at + 1).min(code.len());
    }
    let len = code[at..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len() - at);
    let path = if prefix.is_empty() {
        code[at..at + len].to_owned()
    } else {
        format!("{prefix}::{}", &code[at..at + len])
    };
    at += len;
    match code[at..].strip_prefix("::") {
        Some(rest) if rest.trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '{') => {
            spread(code, at + 2, &path, take)
        }
        Some(_) | None => {
            take(&path);
            at
        }
    }
}

/// The path from the crate's root, for one that begins with `self` or `super`.
fn absolute(module: &[String], inline: usize, path: &str) -> String {
    let supers = path.split("::").take_while(|part| *part == "super").count();
    if supers == 0 {
        return path.to_owned();
    }
    let rest: Vec<&str> = path.split("::").skip(supers).collect();
    let up = supers.saturating_sub(inline).min(module.len());
    let kept = if supers < inline { module } else { &module[..module.len() - up] };
    ["crate"].into_iter().chain(kept.iter().map(String::as_str)).chain(rest).collect::<Vec<_>>().join("::")
}
