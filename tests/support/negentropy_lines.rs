//! Our comparison of sets behind the lines by which implementations of negentropy are tried against each other
//! (<https://github.com/hoytech/negentropy>, its directory `test`): so that any of them can be tried against ours.
//!
//! ```text
//! item,TIMESTAMP,ID   an item; ids are 64 hexadecimal digits
//! seal                that was the last one
//! initiate            begin; answered by "msg,HEX"
//! msg,HEX             what the other side says; answered by "have,ID" and "need,ID" lines where this side began,
//!                     then "msg,HEX", or "done"
//! ```

use can_sync::testing::reconcile::Responder;
use can_sync::testing::reconcile::engine::{EngineLimits, Initiator};
use can_sync::testing::reconcile::tree::{Item, ItemTree};
use can_sync::testing::record::{ContentHash, Hlc, RecordId};
use data_encoding::HEXLOWER_PERMISSIVE;

/// One side of a session.
pub struct EngineLines {
    items: Vec<Item>,
    tree: ItemTree,
    limits: EngineLimits,
    side: Option<Side>,
}

enum Side {
    Asking(Initiator),
    Answering(Responder),
}

impl EngineLines {
    /// Whose messages have at most so many bytes, 4096 or more; 0 for any length.
    pub fn new(frame_bytes: usize) -> Self {
        let limits = EngineLimits { frame_bytes, ..EngineLimits::default() };
        Self { items: Vec::new(), tree: ItemTree::new(), limits, side: None }
    }

    /// Takes a line; what it is answered by.
    ///
    /// # Errors
    /// What is wrong with the line, or with the message in it.
    pub fn take(&mut self, line: &str) -> Result<Vec<String>, String> {
        let mut words = line.trim().split(',');
        match (words.next().unwrap_or_default(), words.next(), words.next()) {
            ("item", Some(timestamp), Some(id)) => {
                let hlc = Hlc(timestamp.parse().map_err(|error| format!("{timestamp}: {error}"))?);
                let id: [u8; 32] = bytes(id)?.try_into().map_err(|_| format!("{id} has not 32 bytes"))?;
                self.items.push(Item { hlc, rid: RecordId(id), hash: ContentHash(id) });
                Ok(Vec::new())
            }
            ("seal", None, None) => {
                self.tree = ItemTree::from_unsorted(std::mem::take(&mut self.items));
                Ok(Vec::new())
            }
            ("initiate", None, None) => {
                let (initiator, opening) = Initiator::new(self.tree.snapshot(), self.limits);
                self.side = Some(Side::Asking(initiator));
                Ok(vec![self.message(&opening)?])
            }
            ("msg", message, None) => self.answer(&bytes(message.unwrap_or_default())?),
            _ => Err(format!("no such line: {line}")),
        }
    }

    fn answer(&mut self, message: &[u8]) -> Result<Vec<String>, String> {
        let (tree, limits) = (&self.tree, self.limits);
        let side = self.side.get_or_insert_with(|| Side::Answering(Responder::new(tree.snapshot(), limits)));
        match side {
            Side::Answering(responder) => {
                let reply = responder.handle(message).map_err(|error| error.to_string())?;
                Ok(vec![self.message(&reply)?])
            }
            Side::Asking(initiator) => {
                let step = initiator.handle(message).map_err(|error| error.to_string())?;
                let have = step.have.iter().map(|item| format!("have,{}", item.rid));
                let mut lines: Vec<String> = have.collect();
                lines.extend(step.need.iter().map(|id| format!("need,{id}")));
                lines.push(step.reply.map_or(Ok("done".to_owned()), |reply| self.message(&reply))?);
                Ok(lines)
            }
        }
    }

    fn message(&self, message: &[u8]) -> Result<String, String> {
        let most = self.limits.frame_bytes;
        if most > 0 && message.len() > most {
            return Err(format!("a message of {} bytes, where {most} are the most", message.len()));
        }
        Ok(format!("msg,{}", HEXLOWER_PERMISSIVE.encode(message)))
    }
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|error| format!("{text}: {error}"))
}
