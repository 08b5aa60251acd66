//! The queues between the machines of one node, one for each ordered pair: in order, delayed at random, and bounded. The
//! bound is soft, as the effect says: what is posted to a full queue is held, and the sender hears that it is full.

use std::collections::{BTreeMap, VecDeque};

use tiderace_base::mesh::Message;

use crate::world::MachineId;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Message>,
    full: bool,
}

/// What the sender hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    Full,
    Open,
}

/// The meshes of all nodes.
#[derive(Debug)]
pub(crate) struct Mesh {
    queues: BTreeMap<(MachineId, MachineId), Queue>,
    limit: usize,
}

impl Mesh {
    /// Queues that say they are full at `limit` messages.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            queues: BTreeMap::new(),
            limit,
        }
    }

    /// Queues a message. Whether a delivery must be scheduled, and what the sender hears.
    pub(crate) fn post(
        &mut self,
        from: MachineId,
        to: MachineId,
        message: Message,
    ) -> (bool, Option<Notice>) {
        let limit = self.limit;
        let queue = self.queues.entry((from, to)).or_default();
        queue.waiting.push_back(message);
        let notice = (!queue.full && queue.waiting.len() >= limit).then(|| {
            queue.full = true;
            Notice::Full
        });
        (queue.waiting.len() == 1, notice)
    }

    /// The next message, whether another delivery must be scheduled, and what the sender hears.
    pub(crate) fn take(
        &mut self,
        from: MachineId,
        to: MachineId,
    ) -> Option<(Message, bool, Option<Notice>)> {
        let limit = self.limit;
        let queue = self.queues.get_mut(&(from, to))?;
        let message = queue.waiting.pop_front()?;
        let notice = (queue.full && queue.waiting.len() <= limit / 2).then(|| {
            queue.full = false;
            Notice::Open
        });
        Some((message, !queue.waiting.is_empty(), notice))
    }

    /// A node's process is gone, and its queues with it.
    pub(crate) fn node_died(&mut self, node: u16) {
        self.queues.retain(|(from, _), _| from.node != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::position::CatalogueVersion;

    #[test]
    fn a_full_queue_says_so_once_and_says_when_it_has_room() {
        let mut mesh = Mesh::new(2);
        let [a, b] = [0, 1].map(|machine| MachineId { node: 0, machine });
        let message = |number| Message::Applied(CatalogueVersion::new(number));
        assert_eq!(mesh.post(a, b, message(0)), (true, None));
        assert_eq!(mesh.post(a, b, message(1)), (false, Some(Notice::Full)));
        assert_eq!(mesh.post(a, b, message(2)), (false, None));
        let notices: Vec<_> = (0..3)
            .map(|_| mesh.take(a, b).map(|(_, more, notice)| (more, notice)))
            .collect();
        assert_eq!(
            notices,
            [
                Some((true, None)),
                Some((true, Some(Notice::Open))),
                Some((false, None))
            ]
        );
        assert!(mesh.take(a, b).is_none());
    }
}
