//! The daemon and its CAN Service speak to programs, of requests and paths; here their errors are put for people at a command line.

/// What a request is at the command line. Longer ones before those that they begin with.
const COMMANDS: [(&str, &str); 35] = [
    ("GET /deletions", "`can-sync deletions`"),
    ("POST /deletions/confirm", "`can-sync deletions confirm`"),
    ("POST /deletions/reject", "`can-sync deletions reject`"),
    ("GET /folders/{id}/conflicts", "`can-sync folder conflicts`"),
    ("GET /folders/{id}/history", "`can-sync folder history`"),
    ("GET /folders/{id}", "`can-sync folder status`"),
    ("POST /folders", "`can-sync folder add`"),
    ("GET /folders", "`can-sync folder list`"),
    ("POST /fetch/{hash}", "`can-sync fetch HASH`"),
    ("GET /why/{hash}", "`can-sync why HASH`"),
    ("GET /peers/{id}", "`can-sync peers list`"),
    ("DELETE /peers/{id}", "`can-sync peers forget`"),
    ("POST /peers", "`can-sync peers add`"),
    ("GET /peers", "`can-sync peers list`"),
    ("POST /verify", "`can-sync wait --in-sync`"),
    ("GET /status", "`can-sync status`"),
    ("GET /actors", "`can-sync status`"),
    ("POST /libraries/{id}/invite", "`can-sync library invite`"),
    ("POST /libraries/{id}/revoke", "`can-sync library revoke`"),
    ("DELETE /libraries/{id}", "`can-sync library delete`"),
    ("POST /libraries", "`can-sync library create`"),
    ("GET /libraries/{id}", "`can-sync library show`"),
    ("GET /libraries", "`can-sync library list`"),
    ("POST /pins/remove", "`can-sync unpin`"),
    ("POST /pins", "`can-sync pin`"),
    ("GET /pins", "`can-sync pin`"),
    ("POST /drops/cancel", "`can-sync drop --stop`"),
    ("POST /drops", "`can-sync drop`"),
    ("POST /join", "`can-sync join`"),
    ("GET /devices", "`can-sync devices`"),
    ("GET /ticket", "`can-sync id --ticket`"),
    ("GET /events", "`can-sync events`"),
    ("GET /trash", "`can-sync trash list`"),
    ("/list and /search", "`can-sync list` and `can-sync search`"),
    ("ingest the content again", "`can-sync put` it again, or `can-sync trash restore` it,"),
];
/// What else only a program could act upon.
const FOR_PROGRAMS: [&str; 8] =
    ["GET ", "POST ", "PATCH ", "PUT ", "DELETE ", "{\"", "/openapi.json", "curl "];

/// An error's hint as advice for people; nothing where it is for programs alone.
pub(super) fn for_people(hint: &str) -> Option<String> {
    let mut advice = hint.to_owned();
    for (request, command) in COMMANDS {
        advice = advice.replace(request, command);
    }
    // Of two requests that are one command, one is enough.
    advice = advice.replace("`can-sync status` and `can-sync status`", "`can-sync status`");
    let is_for_programs = FOR_PROGRAMS.iter().any(|word| advice.contains(word));
    (!advice.is_empty() && !is_for_programs).then_some(advice)
}

/// An error's message without the names of requests.
pub(super) fn in_words(message: &str) -> String {
    COMMANDS.iter().fold(message.to_owned(), |text, (request, command)| text.replace(request, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_commands() {
        assert_eq!(
            for_people(
                "check the hash; GET /peers shows who is connected, POST /fetch/{hash} asks once more"
            )
            .unwrap(),
            "check the hash; `can-sync peers list` shows who is connected, `can-sync fetch HASH` asks once more"
        );
        assert_eq!(for_people("GET /status and GET /actors say more").unwrap(), "`can-sync status` say more");
        assert_eq!(for_people(r#"send {"ticket":"…"}"#), None);
        assert_eq!(for_people("/openapi.json describes what is expected"), None);
        assert_eq!(for_people("the log says more").unwrap(), "the log says more");
        assert_eq!(for_people(""), None);
    }

    /// Every request that a hint of ours names is one that people are told of by its command.
    #[test]
    fn no_hint_of_ours_is_lost_for_its_requests() {
        let sources = [
            include_str!("../api/view.rs"),
            include_str!("../api/why.rs"),
            include_str!("../api/routes.rs"),
            include_str!("../api/libraries.rs"),
            include_str!("../api/deletions.rs"),
            include_str!("../api/folders.rs"),
            include_str!("../store/service/error.rs"),
        ];
        let is_hint = |text: &&str| {
            !text.contains("{\"") && FOR_PROGRAMS[..5].iter().any(|verb| text.starts_with(verb))
        };
        let mut seen = 0;
        for literal in sources.iter().flat_map(|source| source.split('"')).filter(is_hint) {
            assert!(for_people(literal).is_some(), "{literal}");
            seen += 1;
        }
        assert!(seen >= 8, "{seen} hints found: is this still how they are written?");
    }
}
