//! A few machines with one folder, and all that befalls them, from a seed.

use super::disk::{BULK, POOL, SimContent, SimDisk};
use super::machine::{Crashed, SimMachine};
use super::{PlantedBug, SimTrouble};
use crate::entry::EntryPath;
use crate::entry::{EntryRecord, SeenVersion};
use crate::record::{HLC_AHEAD_MAX_MS, Hlc, WriterId};

/// What befalls the machines of one seed.
const EVENTS: u64 = 60;
/// More rounds than it takes until all is quiet.
const ROUNDS_MAX: u32 = 60;
const MINUTE_MS: u64 = 60 * 1000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
const MACHINES_MAX: usize = 5;

pub(super) struct FolderWorld {
    trouble: SimTrouble,
    machines: Vec<SimMachine>,
}

impl FolderWorld {
    pub(super) fn new(seed: u64, bug: Option<PlantedBug>) -> Self {
        let mut trouble = SimTrouble::new(seed, bug);
        let count = 2 + trouble.dice.below(3);
        let has_liar = trouble.dice.one_in(4);
        let mut machines: Vec<SimMachine> = (1..=count)
            .map(|n| {
                let is_coarse = trouble.dice.one_in(4);
                let offset_ms = i64::try_from(trouble.dice.below(18 * MINUTE_MS)).unwrap() - 9 * 60_000;
                let disk = SimDisk { is_coarse, ..SimDisk::default() };
                let (name, writer) = (format!("m{n}"), u8::try_from(n).unwrap());
                SimMachine { name, writer, offset_ms, disk, ..SimMachine::default() }
            })
            .collect();
        if has_liar {
            machines.push(SimMachine {
                name: "liar".to_owned(),
                writer: 99,
                is_liar: true,
                ..SimMachine::default()
            });
        }
        if trouble.dice.one_in(10) {
            for n in 0..BULK {
                let (content, now_ms) = (trouble.content_to_save(), trouble.now_ms);
                let file = machines[0].disk.made(content, now_ms, now_ms);
                machines[0].disk.files.insert(format!("bulk/{n}"), file);
            }
        }
        for machine in &mut machines {
            machine.backup = (machine.store.clone(), machine.db.clone());
        }
        Self { trouble, machines }
    }

    pub(super) fn run(mut self) -> Result<(), String> {
        for _ in 0..EVENTS {
            self.happen();
            self.trouble.ledger.verdict()?;
        }
        self.calm_down()?;
        self.check()
    }

    fn happen(&mut self) {
        let at = self.trouble.dice.index(self.machines.len());
        let time = self.trouble.dice.below(20_000);
        self.trouble.now_ms += time;
        let trouble = &mut self.trouble;
        let choice = trouble.dice.below(100);
        trouble.tell(|| format!("{}: choice {choice}", self.machines[at].name));
        if self.machines[at].is_liar {
            match choice {
                0..=40 => self.lie(at),
                _ => self.meet(at),
            }
            return;
        }
        let has_room = self.machines.len() < MACHINES_MAX;
        let from = &self.machines[trouble.dice.index(self.machines.len())].store;
        let with_content = |entry: &EntryRecord| {
            let content = entry.target().filter(|target| from.contents.contains(target));
            (entry.clone(), content)
        };
        let differs =
            |entry: &&EntryRecord| self.machines[at].store.entries.get(&entry.hash()) != Some(*entry);
        let incoming = from.entries.values().filter(differs).map(with_content).collect();
        let machine = &mut self.machines[at];
        match choice {
            0..=24 => {
                let now_ms = machine.clock(trouble);
                machine.disk.use_it(trouble, now_ms);
            }
            25..=54 => {
                trouble.inbox = incoming;
                if let Err(Crashed) = machine.look(trouble) {
                    machine.restart();
                }
                trouble.inbox.clear();
            }
            55..=79 => self.meet(at),
            80..=84 => machine.disk.befall(trouble),
            85..=87 => machine.write_to_old(trouble),
            88..=91 => machine.backup = (machine.store.clone(), machine.db.clone()),
            92..=95 => self.set_back(at),
            96 => machine.disk.remove_bulk(trouble),
            97 => {
                let days = i64::try_from(trouble.dice.below(4)).unwrap() - 2;
                let more = i64::try_from(trouble.dice.below(DAY_MS)).unwrap();
                machine.offset_ms = days * i64::try_from(DAY_MS).unwrap() + more;
            }
            98 if has_room => {
                // A data directory and a folder that were copied: two machines with one identity.
                let twin = SimMachine { name: format!("{}'", machine.name), ..machine.clone() };
                self.machines.push(twin);
            }
            _ => {
                // Somebody does not agree, or is away.
                let _ = machine.answer(trouble);
                self.trouble.now_ms += 3 * MINUTE_MS;
            }
        }
    }

    /// The store, the table of what was agreed, or both are as they were some time ago.
    fn set_back(&mut self, at: usize) {
        let which = self.trouble.dice.below(3);
        let machine = &mut self.machines[at];
        // What was written or taken out is found again only by the journal.
        if !machine.db.journal.is_empty() || machine.recover(&mut self.trouble).is_err() {
            return;
        }
        machine.restart();
        if which != 0 {
            let (journal, lingering) = (machine.db.journal.clone(), machine.db.lingering.clone());
            machine.db = machine.backup.1.clone();
            machine.removals.clear();
            (machine.db.journal, machine.db.lingering) = (journal, lingering);
        }
        if which != 1 {
            machine.store = machine.backup.0.clone();
            // Where it is noticed, the writer is another from then on.
            if self.trouble.dice.one_in(2) {
                machine.writer = self.trouble.next_writer();
            }
            self.trouble.ledger.store_was_set_back(&self.machines);
        }
    }

    /// Two machines compare, and some of what is wanted comes.
    fn meet(&mut self, at: usize) {
        let other = self.trouble.dice.index(self.machines.len());
        if other == at {
            return;
        }
        self.send(at, other);
        self.send(other, at);
        for to in [at, other] {
            self.fetch(to);
        }
    }

    fn send(&mut self, from: usize, to: usize) -> bool {
        let trouble = &mut self.trouble;
        let entries: Vec<EntryRecord> = self.machines[from]
            .store
            .entries
            .iter()
            .filter(|(hash, entry)| self.machines[to].store.entries.get(hash) != Some(entry))
            .map(|(_, entry)| entry.clone())
            .collect();
        let receiver = &mut self.machines[to];
        let now_ms = receiver.clock(trouble);
        let mut is_changed = false;
        for entry in entries {
            let is_due = entry.hlc.is_due_in(now_ms, HLC_AHEAD_MAX_MS).is_none();
            let is_cut = !trouble.is_calm && trouble.dice.one_in(6);
            if is_due && !is_cut && entry.validate().is_ok() {
                is_changed |= receiver.store.take(entry, trouble.bug);
            }
        }
        is_changed
    }

    fn fetch(&mut self, to: usize) -> bool {
        let store = &self.machines[to].store;
        let wanted = store.entries.values().filter_map(EntryRecord::target);
        let missing: Vec<_> = wanted.filter(|target| !store.contents.contains(target)).collect();
        let mut is_changed = false;
        for target in missing {
            let has = |machine: &SimMachine| machine.store.contents.contains(&target);
            let comes = self.trouble.is_calm || self.trouble.dice.below(3) > 0;
            if comes && self.machines.iter().any(has) {
                is_changed |= self.machines[to].store.contents.insert(target);
            }
        }
        is_changed
    }

    /// A member says what is not so, in a form that is right at times.
    fn lie(&mut self, at: usize) {
        let trouble = &mut self.trouble;
        let known: Vec<EntryRecord> = self.machines[at].store.entries.values().cloned().collect();
        let author = self.machines[at].author(trouble);
        let path = EntryPath::parse(trouble.dice.pick::<&str>(&POOL)).unwrap();
        let before = if known.is_empty() { None } else { Some(trouble.dice.pick(&known)) };
        let file = before.and_then(|before| before.file.clone());
        let at_path = (super::machine::FOLDER, &path);
        let mut version = EntryRecord::after(before, at_path, file, &author, Hlc(0));
        match trouble.dice.below(8) {
            0 => version.file = None,
            1 => {
                // Content that nobody has.
                let content = trouble.unsaved_content();
                version.file.iter_mut().for_each(|file| file.target = content.hash());
            }
            2 => {
                let content = trouble.content_to_save();
                self.machines[at].store.contents.insert(content.hash());
                version
                    .file
                    .iter_mut()
                    .for_each(|file| (file.target, file.size) = (content.hash(), content.size()));
            }
            3 => {
                // Somebody else's name and instant.
                if let Some(before) = before {
                    version = EntryRecord { file: None, seen: Vec::new(), ..before.clone() };
                }
            }
            4 => {
                version.hlc =
                    Hlc::from_ms(author.now_ms + HLC_AHEAD_MAX_MS + trouble.dice.below(20 * MINUTE_MS));
            }
            5 => {
                // It saw everything.
                version.hlc = Hlc::from_ms(author.now_ms + HLC_AHEAD_MAX_MS - 1);
                let all =
                    (1..=9).map(|n| SeenVersion { writer: WriterId([n; 32]), hlc: Hlc(version.hlc.0 - 1) });
                version.seen = all.collect();
                version.file = None;
            }
            6 => version.seen = vec![SeenVersion { writer: WriterId([1; 32]), hlc: Hlc(u64::MAX) }],
            _ => version.path = path.clone(),
        }
        self.machines[at].store.take(version, trouble.bug);
    }

    /// The trouble ends: everything is found again, all clocks are right, and everybody talks until nobody has anything to say.
    fn calm_down(&mut self) -> Result<(), String> {
        self.trouble.is_calm = true;
        self.trouble.now_ms += 4 * DAY_MS;
        for machine in &mut self.machines {
            machine.restart();
            machine.offset_ms = 0;
            machine.disk.restore(&mut self.trouble);
            machine.disk.ignored.clear();
        }
        for round in 0..ROUNDS_MAX {
            if !self.round(true) {
                return self.trouble.ledger.verdict();
            }
            self.trouble.ledger.verdict().map_err(|why| format!("{why} (round {round})"))?;
        }
        Err("it never becomes quiet".to_owned())
    }

    /// Everybody looks, answers and compares once; whether anything changed.
    fn round(&mut self, with_users: bool) -> bool {
        self.trouble.now_ms += 11 * MINUTE_MS;
        let mut is_changed = false;
        for machine in self.machines.iter_mut().filter(|machine| !machine.is_liar) {
            let looked = machine.look(&mut self.trouble);
            is_changed |= machine.is_busy || looked.is_err();
            if with_users {
                machine.is_busy = false;
                let answered = machine.answer(&mut self.trouble);
                is_changed |= machine.is_busy || answered.is_err();
            }
        }
        for from in 0..self.machines.len() {
            for to in 0..self.machines.len() {
                is_changed |= from != to && self.send(from, to);
            }
        }
        for to in 0..self.machines.len() {
            is_changed |= self.fetch(to);
        }
        is_changed
    }

    fn check(mut self) -> Result<(), String> {
        let first = self.machines[0].store.entries.clone();
        // What a liar has that nobody takes is its own affair.
        for machine in self.machines.iter().filter(|machine| !machine.is_liar) {
            let other = &machine.store.entries;
            if *other != first {
                let differs = first.iter().find(|(hash, entry)| other.get(hash) != Some(*entry));
                return Err(format!("{} has other entries: {differs:?}", machine.name));
            }
            check_disk(machine, &self.machines)?;
        }
        self.trouble.ledger.check(&self.machines)?;
        // Nothing is done and nothing is written in a quiet network, also after a start.
        for _ in 0..2 {
            self.machines.iter_mut().for_each(SimMachine::restart);
            if self.round(false) || self.machines[0].store.entries != first {
                return Err("it was quiet, and something was done".to_owned());
            }
        }
        self.trouble.ledger.verdict()
    }
}

/// Whether the disk shows what the folder has.
fn check_disk(machine: &SimMachine, machines: &[SimMachine]) -> Result<(), String> {
    let (disk, name) = (&machine.disk, &machine.name);
    let mut names = Vec::new();
    for entry in machine.store.entries.values() {
        let (plain, aside) = (entry.path.as_str().to_owned(), entry.path.aside(super::machine::FOLDER));
        let there = disk.files.get(if machine.stands_aside(&entry.path) { aside.as_str() } else { &plain });
        names.extend([plain, aside.as_str().to_owned()]);
        let shown = there.map(|file| (file.content.hash(), file.executable));
        let wanted = entry.file.as_ref().map(|file| (file.target, file.executable));
        let is_nowhere = |target| machines.iter().all(|machine| !machine.store.contents.contains(&target));
        if shown != wanted && !entry.target().is_some_and(is_nowhere) {
            return Err(format!("{name} shows {shown:?} at {}, and the folder has {entry:?}", entry.path));
        }
    }
    match disk.files.keys().find(|file| !names.contains(file)) {
        Some(stray) => Err(format!("{name} has {stray}, which no entry names")),
        None if !disk.temporary.is_empty() => {
            Err(format!("{name} left temporary files: {:?}", disk.temporary))
        }
        None => Ok(()),
    }
}

impl SimTrouble {
    /// A content that a user saves: mostly new, at times one that was there before, or nothing at all.
    pub(super) fn content_to_save(&mut self) -> SimContent {
        let content = match self.dice.below(10) {
            0 => SimContent(0),
            1 | 2 if self.contents > 0 => {
                SimContent(1 + u32::try_from(self.dice.below(u64::from(self.contents))).unwrap())
            }
            _ => {
                self.contents += 1;
                SimContent(self.contents)
            }
        };
        self.ledger.saved.insert(content.hash());
        content
    }
}
