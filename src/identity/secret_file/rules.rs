//! Who may read and change a file with a secret in it, and the directory that it is in. Pure.

/// Who put the file where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A user or a service manager, whose a setting names.
    User,
    /// This node, in its data directory.
    Node,
    /// This node, and nobody else may ever have read it: it is who the node is.
    EndpointKey,
}

/// The user and groups that the process acts for.
#[derive(Clone, Debug)]
pub(super) struct ProcessIdentity {
    pub(super) user: u32,
    /// Its own group and those that it is in besides.
    pub(super) groups: Vec<u32>,
}

impl ProcessIdentity {
    /// Whether these users are ours to trust: ourselves, and root.
    fn trusts_user(&self, user: u32) -> bool {
        user == self.user || user == 0
    }

    fn trusts_group(&self, group: u32) -> bool {
        group == 0 || self.groups.contains(&group)
    }
}

/// A file, or a directory, as the open descriptor has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Permission bits, the sticky and set-group-id bits among them.
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    /// Whether the file system has modes: where it has none, the bits are whatever it was mounted with.
    pub(super) modes: bool,
    /// Whether it lies where service managers put what they hand to one service alone.
    pub(super) credentials: bool,
}

/// What is wrong with the permissions of a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It belongs to somebody who is neither we nor root.
    Foreign { user: u32 },
    /// Others could put another secret there.
    Writable,
    /// Others can read it.
    Readable,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileRuling {
    Take,
    /// It can be read, or changed, by more than its owner, as somebody wanted it to be.
    Warn(Remark),
    /// It is ours, and more open than it was made: closed to all others, and taken.
    Tighten,
    Refuse(Fault),
}

/// Why somebody should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remark {
    /// The file's group can read it.
    GroupReads { group: u32 },
    /// The directory's group can change what is in it.
    GroupWrites { group: u32 },
    /// The file system cannot keep anybody out.
    NoModes,
}

const GROUP_READS: u32 = 0o040;
const GROUP_WRITES: u32 = 0o020;
const ALL_READ: u32 = 0o004;
const ALL_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
const SET_GROUP: u32 = 0o2000;

/// What to do about a file with a secret in it.
pub(super) fn judge_file(facts: &Facts, keeper: Keeper, process: &ProcessIdentity) -> FileRuling {
    let Facts { mode, user, group, modes, credentials } = *facts;
    let is = |bits| mode & bits != 0;
    let (ours, groups_own) = (user == process.user, process.trusts_group(group));
    if !process.trusts_user(user) {
        return FileRuling::Refuse(Fault::Foreign { user });
    }
    if !modes {
        let open = is(GROUP_READS | GROUP_WRITES | ALL_READ | ALL_WRITE);
        return if open { FileRuling::Warn(Remark::NoModes) } else { FileRuling::Take };
    }
    if is(ALL_WRITE) {
        return FileRuling::Refuse(Fault::Writable);
    }
    if is(ALL_READ) && !(credentials && keeper == Keeper::User) {
        return FileRuling::Refuse(if is(GROUP_WRITES) { Fault::Writable } else { Fault::Readable });
    }
    if is(GROUP_WRITES) {
        // Cluster software opens a volume to its group at every start (`fsGroup`), what this node made there included.
        let opened_later = keeper != Keeper::User && ours && groups_own;
        return if opened_later { FileRuling::Tighten } else { FileRuling::Refuse(Fault::Writable) };
    }
    if is(GROUP_READS) {
        return match keeper {
            Keeper::EndpointKey if ours => FileRuling::Tighten,
            Keeper::EndpointKey => FileRuling::Refuse(Fault::Readable),
            Keeper::User if credentials => FileRuling::Take,
            Keeper::User | Keeper::Node if !groups_own => FileRuling::Refuse(Fault::Readable),
            Keeper::User | Keeper::Node => FileRuling::Warn(Remark::GroupReads { group }),
        };
    }
    FileRuling::Take
}

/// Whether what is in a file can only come from us, or from root.
pub(super) fn is_own(facts: &Facts, process: &ProcessIdentity) -> bool {
    process.trusts_user(facts.user) && (!facts.modes || facts.mode & (GROUP_WRITES | ALL_WRITE) == 0)
}

/// Whether what is in a file can only come from us, from root, or from members of a group of ours.
pub(super) fn is_of_ours(facts: &Facts, process: &ProcessIdentity) -> bool {
    let is = |bits| facts.modes && facts.mode & bits != 0;
    process.trusts_user(facts.user)
        && !is(ALL_WRITE)
        && (!is(GROUP_WRITES) || process.trusts_group(facts.group))
}

/// What to do about the directory that a secret is in: anyone who can write there can put another file in its place.
pub(super) fn judge_dir(facts: &Facts, keeper: Keeper, process: &ProcessIdentity) -> FileRuling {
    let Facts { mode, user, group, modes, credentials: _ } = *facts;
    let is = |bits| mode & bits != 0;
    if !modes || is(STICKY) || !is(GROUP_WRITES | ALL_WRITE) {
        return FileRuling::Take;
    }
    if is(ALL_WRITE) || !process.trusts_group(group) {
        return FileRuling::Refuse(Fault::Writable);
    }
    if is(SET_GROUP) {
        // Shared with a group on purpose, as volumes in clusters are; what somebody else puts there is not taken.
        return FileRuling::Warn(Remark::GroupWrites { group });
    }
    let ours = keeper != Keeper::User && user == process.user;
    if ours { FileRuling::Tighten } else { FileRuling::Refuse(Fault::Writable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u32 = 1000;
    const OUR_GROUP: u32 = 1000;
    const OTHER: u32 = 4711;

    fn process() -> ProcessIdentity {
        ProcessIdentity { user: US, groups: vec![OUR_GROUP, 2000] }
    }

    fn facts(mode: u32) -> Facts {
        Facts { mode, user: US, group: OUR_GROUP, modes: true, credentials: false }
    }

    fn file(facts: Facts, keeper: Keeper) -> FileRuling {
        judge_file(&facts, keeper, &process())
    }

    const KEEPERS: [Keeper; 3] = [Keeper::User, Keeper::Node, Keeper::EndpointKey];

    #[test]
    fn what_others_own_or_can_change_is_not_our_own() {
        for (mode, user, modes, expected) in [
            (0o644, US, true, true),
            (0o600, 0, true, true),
            (0o600, OTHER, true, false),
            (0o664, US, true, false),
            (0o602, US, true, false),
            (0o777, US, false, true),
            (0o777, OTHER, false, false),
        ] {
            let facts = Facts { user, modes, ..facts(mode) };
            assert_eq!(is_own(&facts, &process()), expected, "{mode:o} {user} {modes}");
        }
    }

    #[test]
    fn a_private_file_of_ours_or_of_roots_is_taken_and_nobody_elses() {
        for keeper in KEEPERS {
            for mode in [0o600, 0o400, 0o700, 0o711] {
                assert_eq!(file(facts(mode), keeper), FileRuling::Take);
                assert_eq!(file(Facts { user: 0, ..facts(mode) }, keeper), FileRuling::Take);
                let foreign = Facts { user: OTHER, credentials: true, ..facts(mode) };
                assert_eq!(file(foreign, keeper), FileRuling::Refuse(Fault::Foreign { user: OTHER }));
                let foreign = Facts { modes: false, ..foreign };
                assert_eq!(file(foreign, keeper), FileRuling::Refuse(Fault::Foreign { user: OTHER }));
            }
        }
    }

    #[test]
    fn the_group_may_read_where_it_is_ours_or_roots() {
        for mode in [0o440, 0o640] {
            for group in [OUR_GROUP, 2000, 0] {
                let facts = Facts { group, ..facts(mode) };
                for keeper in [Keeper::User, Keeper::Node] {
                    assert_eq!(file(facts, keeper), FileRuling::Warn(Remark::GroupReads { group }));
                }
                assert_eq!(file(facts, Keeper::EndpointKey), FileRuling::Tighten);
                let roots = Facts { user: 0, ..facts };
                assert_eq!(file(roots, Keeper::EndpointKey), FileRuling::Refuse(Fault::Readable));
                assert_eq!(file(Facts { credentials: true, ..facts }, Keeper::User), FileRuling::Take);
            }
            let others = Facts { group: OTHER, ..facts(mode) };
            assert_eq!(file(others, Keeper::User), FileRuling::Refuse(Fault::Readable));
            assert_eq!(file(others, Keeper::Node), FileRuling::Refuse(Fault::Readable));
            assert_eq!(file(others, Keeper::EndpointKey), FileRuling::Tighten);
        }
    }

    #[test]
    fn all_may_read_only_what_a_service_manager_handed_over() {
        for mode in [0o444, 0o644, 0o604, 0o404] {
            for keeper in KEEPERS {
                assert_eq!(file(facts(mode), keeper), FileRuling::Refuse(Fault::Readable));
            }
            let handed = Facts { user: 0, group: OTHER, credentials: true, ..facts(mode) };
            assert_eq!(file(handed, Keeper::User), FileRuling::Take);
            assert_eq!(file(handed, Keeper::Node), FileRuling::Refuse(Fault::Readable));
            assert_eq!(file(handed, Keeper::EndpointKey), FileRuling::Refuse(Fault::Readable));
        }
    }

    #[test]
    fn what_others_can_write_is_refused_but_for_what_was_opened_after_we_made_it() {
        for mode in [0o602, 0o622, 0o666, 0o777, 0o646] {
            for keeper in KEEPERS {
                let handed = Facts { credentials: true, ..facts(mode) };
                assert_eq!(file(handed, keeper), FileRuling::Refuse(Fault::Writable));
            }
        }
        for mode in [0o620, 0o660, 0o670] {
            assert_eq!(file(facts(mode), Keeper::User), FileRuling::Refuse(Fault::Writable));
            for keeper in [Keeper::Node, Keeper::EndpointKey] {
                assert_eq!(file(facts(mode), keeper), FileRuling::Tighten);
                let theirs = Facts { group: OTHER, ..facts(mode) };
                assert_eq!(file(theirs, keeper), FileRuling::Refuse(Fault::Writable));
                let roots = Facts { user: 0, ..facts(mode) };
                assert_eq!(file(roots, keeper), FileRuling::Refuse(Fault::Writable));
            }
        }
        assert_eq!(file(facts(0o664), Keeper::Node), FileRuling::Refuse(Fault::Writable));
    }

    #[test]
    fn without_modes_everything_is_taken_and_said() {
        for keeper in KEEPERS {
            let mounted = Facts { modes: false, ..facts(0o777) };
            assert_eq!(file(mounted, keeper), FileRuling::Warn(Remark::NoModes));
            assert_eq!(judge_dir(&mounted, keeper, &process()), FileRuling::Take);
            assert_eq!(file(Facts { mode: 0o600, ..mounted }, keeper), FileRuling::Take);
        }
    }

    #[test]
    fn directories() {
        let dir = |facts: Facts, keeper| judge_dir(&facts, keeper, &process());
        for keeper in KEEPERS {
            for mode in [0o700, 0o755, 0o555, 0o1777, 0o3777, 0o1770, 0o2755] {
                assert_eq!(dir(facts(mode), keeper), FileRuling::Take);
            }
            for mode in [0o777, 0o2777, 0o703, 0o757] {
                assert_eq!(dir(facts(mode), keeper), FileRuling::Refuse(Fault::Writable));
            }
            for mode in [0o2770, 0o2775] {
                let remark = Remark::GroupWrites { group: 2000 };
                let shared = Facts { group: 2000, user: 0, ..facts(mode) };
                assert_eq!(dir(shared, keeper), FileRuling::Warn(remark));
                let theirs = Facts { group: OTHER, ..shared };
                assert_eq!(dir(theirs, keeper), FileRuling::Refuse(Fault::Writable));
            }
        }
        for mode in [0o770, 0o775] {
            assert_eq!(dir(facts(mode), Keeper::User), FileRuling::Refuse(Fault::Writable));
            assert_eq!(dir(facts(mode), Keeper::Node), FileRuling::Tighten);
            let roots = Facts { user: 0, ..facts(mode) };
            assert_eq!(dir(roots, Keeper::Node), FileRuling::Refuse(Fault::Writable));
        }
    }
}
