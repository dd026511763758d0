//! What many removals wait for.

use super::*;
use crate::folder::work::answering::FolderCommand;

/// A folder from which all of these were removed elsewhere, while somebody writes to one of them; `None` where the machine was so
/// slow that the file may have come to rest.
fn removed_while_one_is_written(names: &[String]) -> Option<Desk> {
    let mut desk = Desk::new();
    for name in names {
        desk.receive(name, name.as_bytes());
    }
    desk.look().unwrap();
    desk.remove_elsewhere(names);
    desk.look().unwrap();
    assert_eq!(desk.work.brake.held.len(), 30);
    // Somebody touches one of them, and may go on.
    let began = std::time::Instant::now();
    fs::write(desk.file("7.txt"), "7.txt").unwrap();
    let touched = BTreeSet::from(["7.txt".to_owned()]);
    let scope = LookScope { names: touched.clone(), unrested: touched, ..LookScope::default() };
    desk.work.look(&scope).unwrap();
    desk.look().unwrap();
    (began.elapsed() < Duration::from_millis(900)).then_some(desk)
}

#[test]
fn what_is_being_written_stays_held_with_the_others_and_is_put_back_with_them() {
    let names: Vec<String> = (0..30).map(|number| format!("{number}.txt")).collect();
    let mut desk = (0..20).find_map(|_| removed_while_one_is_written(&names)).expect("two looks in time");
    assert_eq!(desk.work.brake.held.len(), 30, "one alone would pass the brake later");
    let said = desk.work.obey(&FolderCommand::Revert).unwrap().unwrap();
    assert!(said.starts_with("30 "), "{said}");
    desk.look().unwrap();
    assert_eq!((desk.work.brake.held.len(), desk.work.live_entries()), (0, 30));
    assert!(names.iter().all(|name| desk.file(name).exists()));
}
