//! What users, power, disks and clocks do to the machines.

use std::time::Duration;

use super::super::PlantedBug;
use super::super::machine::DropMachine;
use super::{DropEvent, DropWorld, TROUBLE, holder_id, holder_up};
use crate::peer::letting_go::DropInput;
use crate::record::ContentHash;
use crate::transfer::schedule::SessionId;

impl DropWorld {
    /// What users, power and clocks do.
    pub(super) fn plan(&mut self) {
        let count = self.machines.len();
        let begin = self.dice.up_to(TROUBLE / 4);
        for _ in 0..2 + self.dice.index(8) {
            let machine = self.dice.index(count);
            // Most at about the same time.
            let near = if self.dice.one_in(3) { TROUBLE } else { Duration::from_secs(20) };
            let after = begin + self.dice.up_to(near);
            self.at(after, DropEvent::Drop(machine));
        }
        for _ in 0..self.dice.index(8) {
            let (machine, hash) = (self.dice.index(count), self.contents[self.dice.index(2)]);
            let near = if self.dice.one_in(2) { TROUBLE } else { Duration::from_mins(2) };
            let after = begin + self.dice.up_to(near);
            let event = match self.dice.below(16) {
                0..6 => DropEvent::Kill(machine),
                6..9 => DropEvent::SetClock(machine),
                9..11 => DropEvent::Rot(machine, hash),
                11 => DropEvent::Delete(hash),
                12 | 13 => DropEvent::Deny(machine, self.dice.index(count)),
                _ => DropEvent::Fetch(machine, hash),
            };
            self.at(after, event);
        }
        for machine in 0..count {
            if self.machines[machine].lies {
                let after = self.dice.up_to(TROUBLE);
                self.at(after, DropEvent::Lose(machine));
            }
        }
    }

    pub(super) fn kill(&mut self, machine: usize) -> Result<(), String> {
        if self.machines[machine].started.is_none() {
            return Ok(());
        }
        self.tell(|| format!("{machine} is killed"));
        self.machines[machine].kill(self.bug);
        self.others_hear(machine, false)?;
        let most = if self.dice.one_in(3) { Duration::from_hours(5) } else { Duration::from_secs(30) };
        let after = self.dice.up_to(most);
        self.at(after, DropEvent::Start(machine));
        Ok(())
    }

    pub(super) fn others_hear(&mut self, machine: usize, is_up: bool) -> Result<(), String> {
        let session = SessionId(machine as u64);
        let is_denied = |other: &usize| self.machines[*other].denied.contains(&machine);
        let others: Vec<usize> =
            (0..self.machines.len()).filter(|other| *other != machine && !is_denied(other)).collect();
        for other in others {
            let input = if is_up { holder_up(machine) } else { DropInput::HolderGone { session } };
            self.step(other, input)?;
        }
        Ok(())
    }

    /// It is disconnected first.
    pub(super) fn deny(&mut self, machine: usize, denied: usize) -> Result<(), String> {
        if machine == denied || !self.machines[machine].denied.insert(denied) {
            return Ok(());
        }
        self.tell(|| format!("{machine} shuts {denied} out"));
        self.step(machine, DropInput::HolderGone { session: SessionId(denied as u64) })?;
        if self.bug == Some(PlantedBug::CountsTheDenied) {
            return Ok(());
        }
        self.step(machine, DropInput::HolderDenied { holder: holder_id(denied) })
    }

    /// Bytes rot that nobody counts on: of what was promised, that would be a lie.
    pub(super) fn rot(&mut self, machine: usize, hash: ContentHash) {
        let rots = &self.machines[machine];
        let is_promised = (0..self.machines.len())
            .any(|other| rots.keeps(hash, other, self.now, Duration::from_millis(1), None));
        if rots.has(hash) && !is_promised && self.honest_copies(hash) > 1 {
            self.machines[machine].copy(hash).rotten = true;
        }
    }

    pub(super) fn delete(&mut self, hash: ContentHash) {
        self.tell(|| format!("{} is deleted", hash.0[0]));
        self.deleted.push(hash);
        self.machines.iter_mut().for_each(|machine| machine.copy(hash).held = false);
    }

    pub(super) fn fetch(&mut self, machine: usize, hash: ContentHash) {
        let gives = |other: &DropMachine| other.started.is_some() && other.has(hash);
        let asks = &self.machines[machine];
        let is_missing = asks.started.is_some() && !asks.has(hash) && !asks.is_rotten(hash);
        if is_missing && !self.deleted.contains(&hash) && self.machines.iter().any(gives) {
            self.machines[machine].copy(hash).held = true;
        }
    }
}
