//! A node with a witness: the world of most hostile tests. What they do to it may cost themselves and nobody else.

use crate::node::{Node, Setup};
use crate::peer::Peer;
use crate::scratch::Scratch;
use crate::witness::Witness;

/// The world.
#[derive(Debug)]
pub struct World {
    /// Who is served throughout.
    pub witness: Witness,
    /// The node.
    pub node: Node,
    /// How it is configured.
    pub setup: Setup,
    _scratch: Scratch,
}

impl World {
    /// A node with a witness, in a directory whose name begins with `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let setup = Setup::new(&scratch);
        let node = Node::start(&setup);
        let witness = Witness::new(setup.server, "honest/witness");
        Self {
            witness,
            node,
            setup,
            _scratch: scratch,
        }
    }

    /// A connection that has shaken hands.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer::open(self.setup.server).0
    }

    /// The end of every test: the witness lost nothing, and the node ends in order.
    #[track_caller]
    pub fn holds(mut self) {
        self.witness.lost_nothing();
        self.node.stop();
    }
}
