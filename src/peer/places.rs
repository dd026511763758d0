//! Who has which of this node's connections. Pure.
//!
//! Ids cost nothing to make, and a ticket may be in many hands. So places are given by **class**: our own devices, which know
//! the passphrase; members of libraries, by ticket; and strangers, who have proved nothing. Own devices may have every place,
//! and at least half of them; members at most half, of which one ticket has at most an eighth, however many ids show it. A
//! class that is full refuses the newcomer: a peer that has proved itself stays. A peer that the user named has a place always.
//!
//! Before the proof the class is a guess, from what the id proved earlier; a connection that has to prove itself yet takes one
//! of other places, which are fewer and held for seconds. With the proof it moves to the class that it proved.

use std::collections::HashMap;

use crate::library::ticket::TicketSerial;
use crate::transfer::schedule::SessionId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Named,
    /// One of our own devices.
    Own,
    /// A member of a library, by this ticket.
    Member(TicketSerial),
    /// Somebody who has proved nothing.
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    #[error("too many connections wait for their proof: try again in a moment")]
    Pending,
    #[error("too many connections: try again later")]
    Connections,
    #[error("too many machines are connected with the same ticket: ask for one of your own")]
    Ticket,
}

#[derive(Clone, Copy, Debug)]
pub struct PlaceLimits {
    /// For those who have proved themselves.
    pub connections: usize,
    /// For those who have to.
    pub pending: usize,
}

impl PlaceLimits {
    /// Of `all` places, those that members may have.
    fn members(all: usize) -> usize {
        (all / 2).max(1)
    }

    /// Of those that members may have, what one ticket may.
    fn per_ticket(members: usize) -> usize {
        (members / 8).max(1)
    }

    /// Of `all` places, those that strangers may have: a part of what members may, so that members get in as well.
    fn strangers(all: usize) -> usize {
        (all * 3 / 8).max(1)
    }
}

#[derive(Clone, Copy, Debug)]
struct ConnectionPlace {
    class: Class,
    proved: bool,
}

#[derive(Debug)]
pub struct Places {
    limits: PlaceLimits,
    held: HashMap<SessionId, ConnectionPlace>,
}

impl Places {
    pub fn new(limits: PlaceLimits) -> Self {
        Self { limits, held: HashMap::new() }
    }

    /// Whether there is a place for somebody who connects and seems to be of `class`. This is not asked for peers that we dialled: how
    /// many dials there are has limits of its own.
    pub fn may_enter(&self, class: Class) -> Result<(), NoPlace> {
        let all = self.limits.pending;
        let members = PlaceLimits::members(all);
        let own = self.count(false, |class| *class == Class::Own);
        let strangers = self.count(false, |class| *class == Class::Stranger);
        let others = strangers + self.count(false, is_member);
        let room = own + others < all;
        let admitted = match class {
            Class::Named => true,
            Class::Own => room,
            Class::Member(_) => {
                let same = self.count(false, |other| *other == class);
                room && others < members && same < PlaceLimits::per_ticket(members)
            }
            Class::Stranger => room && others < members && strangers < PlaceLimits::strangers(all),
        };
        if admitted { Ok(()) } else { Err(NoPlace::Pending) }
    }

    /// A connection begins, of somebody who seems to be of `class`. It takes over what the same peer's connection `replaced`
    /// had.
    pub fn enter(&mut self, session: SessionId, class: Class, replaced: Option<SessionId>) {
        let taken_over = replaced.and_then(|old| self.held.remove(&old));
        self.held.insert(session, taken_over.unwrap_or(ConnectionPlace { class, proved: false }));
    }

    /// The peer of this connection has proved what it is: it moves to that class, which is given back. A member is counted by the first of its
    /// `tickets` for which there is a place; our own devices have none.
    ///
    /// # Errors
    /// If the class is full; then the connection is to be closed. One that had proved itself before stays what it was.
    pub fn prove(
        &mut self,
        session: SessionId,
        named: bool,
        tickets: Option<&[TicketSerial]>,
    ) -> Result<Class, NoPlace> {
        let before = self.held.remove(&session);
        let class = match tickets {
            _ if named => Ok(Class::Named),
            None => self.own_place(),
            Some(tickets) => self.member_place(tickets),
        };
        match (class, before) {
            (Ok(class), _) => drop(self.held.insert(session, ConnectionPlace { class, proved: true })),
            (Err(_), Some(before)) => drop(self.held.insert(session, before)),
            (Err(_), None) => {}
        }
        class
    }

    fn own_place(&self) -> Result<Class, NoPlace> {
        let taken = self.count(true, |class| *class == Class::Own || is_member(class));
        if taken < self.limits.connections { Ok(Class::Own) } else { Err(NoPlace::Connections) }
    }

    fn member_place(&self, tickets: &[TicketSerial]) -> Result<Class, NoPlace> {
        let members = PlaceLimits::members(self.limits.connections);
        let taken = self.count(true, is_member);
        if taken >= members || self.own_place().is_err() {
            return Err(NoPlace::Connections);
        }
        let free =
            |class: &Class| self.count(true, |other| other == class) < PlaceLimits::per_ticket(members);
        tickets.iter().map(|ticket| Class::Member(*ticket)).find(free).ok_or(NoPlace::Ticket)
    }

    /// What the peer of this connection proved to be.
    pub fn proved(&self, session: SessionId) -> Option<Class> {
        self.held.get(&session).filter(|place| place.proved).map(|place| place.class)
    }

    /// A connection is over.
    pub fn leave(&mut self, session: SessionId) {
        self.held.remove(&session);
    }

    /// Whether there would be a place for a peer of this class once it has proved itself: whether it is worth a dial. A peer
    /// that nothing is known of may be one of our own devices.
    pub fn has_room_for(&self, class: Class) -> bool {
        match class {
            Class::Named => true,
            Class::Own | Class::Stranger => self.own_place().is_ok(),
            Class::Member(ticket) => self.member_place(&[ticket]).is_ok(),
        }
    }

    /// How many connections there are of own devices, members, and those who have proved nothing. Those that the user named
    /// count as own devices.
    pub fn counts(&self) -> [usize; 3] {
        let own = self.count(true, |class| matches!(class, Class::Own | Class::Named));
        [own, self.count(true, is_member), self.held.values().filter(|place| !place.proved).count()]
    }

    fn count(&self, proved: bool, is: impl Fn(&Class) -> bool) -> usize {
        self.held.values().filter(|place| place.proved == proved && is(&place.class)).count()
    }
}

fn is_member(class: &Class) -> bool {
    matches!(class, Class::Member(_))
}

#[cfg(test)]
mod tests;
