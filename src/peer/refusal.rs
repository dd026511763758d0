//! Why there is no session with a peer that is there: somebody decided so, or has to. Pure.

use iroh::EndpointId;
use iroh::endpoint::ConnectionError;

use super::admission::Refusal;
use super::report::ConnectionState;
use crate::net::close::{self, is_close};
use crate::text::{short_id, stated};

/// Which of the two sides does not let the other in, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRefusal {
    /// It knows the passphrase and waits for this machine's user.
    ApprovalWanted,
    /// This machine waits for the user of the other one.
    NotApproved,
    /// This machine's user shut it out.
    DeniedHere,
    /// The user of the other machine shut this one out.
    DeniedThere,
    /// It does not know our passphrase.
    OtherPassphrase,
    /// Its ticket does not let it into our library, and why.
    TicketHere(String),
    /// Our ticket does not let us into its library, as it says.
    TicketThere(String),
}

impl PeerRefusal {
    /// What our own refusal means for the peer's place in the list; nothing where it says nothing of the peer.
    pub(super) fn of_refusal(refusal: &Refusal) -> Option<Self> {
        match refusal {
            Refusal::Denied => Some(Self::DeniedHere),
            Refusal::Waiting => Some(Self::ApprovalWanted),
            Refusal::Ticket(why) => Some(Self::TicketHere(without_advice(why.to_string()))),
            Refusal::Gone | Refusal::Unknown => None,
        }
    }

    /// What the peer meant by closing the connection; nothing where it did not refuse us.
    pub(super) fn of_close(reason: &ConnectionError) -> Option<Self> {
        if is_close(reason, close::UNAPPROVED) {
            return Some(Self::NotApproved);
        }
        if is_close(reason, close::DENIED) {
            return Some(Self::DeniedThere);
        }
        let ConnectionError::ApplicationClosed(closed) = reason else { return None };
        let why = String::from_utf8_lossy(&closed.reason);
        let why = stated(&why);
        if is_close(reason, close::OWN_TICKET) {
            return Some(Self::TicketHere(without_advice(why)));
        }
        is_close(reason, close::REFUSED).then_some(Self::TicketThere(why))
    }

    /// The state that the peer is shown with.
    pub fn state(&self) -> ConnectionState {
        match self {
            Self::ApprovalWanted => ConnectionState::ApprovalWanted,
            Self::NotApproved => ConnectionState::NotApproved,
            Self::DeniedHere => ConnectionState::Denied,
            Self::DeniedThere => ConnectionState::DeniedThere,
            Self::OtherPassphrase => ConnectionState::OtherPassphrase,
            Self::TicketHere(_) | Self::TicketThere(_) => ConnectionState::TicketRefused,
        }
    }

    /// What that is, and what to do about it, for the user of the machine `own` about `peer`.
    pub fn sentence(&self, peer: &EndpointId, own: &EndpointId) -> String {
        let (peer, own) = (short_id(&peer.to_string()), short_id(&own.to_string()));
        match self {
            Self::ApprovalWanted => {
                format!(
                    "it knows the passphrase and waits for your approval: `can-sync approve {peer}` lets it in"
                )
            }
            Self::NotApproved => format!(
                "this machine waits for approval there: `can-sync approve {own}` on that machine lets this one in"
            ),
            Self::DeniedHere => format!("you denied it: `can-sync approve {peer}` lets it in again"),
            Self::DeniedThere => format!(
                "this machine was denied there: `can-sync approve {own}` on that machine lets this one in again"
            ),
            Self::OtherPassphrase => {
                "it does not know our passphrase: compare what `can-sync passphrase` prints on \
                                      both machines"
                    .to_owned()
            }
            Self::TicketHere(why) => {
                format!("its ticket does not let it in ({why}): `can-sync library invite` makes another one")
            }
            Self::TicketThere(why) => format!("this machine is not let into its library: {why}"),
        }
    }
}

/// A ticket's error without the advice, which is for the ticket's holder.
fn without_advice(why: String) -> String {
    why.split_once(": ").map(|(what, _)| what.to_owned()).unwrap_or(why)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use iroh::SecretKey;

    use crate::library::ticket::TicketError;

    use super::*;

    #[test]
    fn each_has_a_sentence_of_its_own_that_names_the_machine_to_act_on() {
        let [peer, own] = [1, 2].map(|seed| SecretKey::from_bytes(&[seed; 32]).public());
        let all = [
            (PeerRefusal::ApprovalWanted, &peer),
            (PeerRefusal::NotApproved, &own),
            (PeerRefusal::DeniedHere, &peer),
            (PeerRefusal::DeniedThere, &own),
        ];
        for (refusal, named) in &all {
            let sentence = refusal.sentence(&peer, &own);
            assert!(sentence.contains(&format!("approve {}", &named.to_string()[..10])), "{sentence}");
        }
        let more = [
            PeerRefusal::OtherPassphrase,
            PeerRefusal::TicketHere("it expired".into()),
            PeerRefusal::TicketThere("it expired".into()),
        ];
        let all: Vec<PeerRefusal> = all.into_iter().map(|(refusal, _)| refusal).chain(more).collect();
        let sentences: HashSet<String> = all.iter().map(|refusal| refusal.sentence(&peer, &own)).collect();
        assert_eq!(sentences.len(), all.len());
    }

    #[test]
    fn advice_for_whoever_holds_a_ticket_is_not_given_to_its_issuer() {
        let refusal = PeerRefusal::of_refusal(&Refusal::Ticket(TicketError::Revoked(3)));
        assert_eq!(refusal, Some(PeerRefusal::TicketHere("the ticket (serial 3) was revoked".into())));
    }
}
