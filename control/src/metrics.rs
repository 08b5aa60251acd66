//! What a control machine counts about itself, for whoever watches the node from another thread.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $name:ident, )*) => {
        /// Gauges of a control machine: written by its thread, once a turn, read by any.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $( $(#[doc = $help])+ $name: AtomicU64, )*
        }

        /// One turn's values.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Values {
            $( pub(crate) $name: u64, )*
        }

        impl Metrics {
            pub(crate) fn set(&self, values: Values) {
                $( self.$name.store(values.$name, Ordering::Relaxed); )*
            }

            /// Hands over each: its name, its help, its value.
            pub fn each(&self, mut take: impl FnMut(&'static str, &'static str, u64)) {
                $( take(
                    stringify!($name),
                    concat!($($help),+).trim_start(),
                    self.$name.load(Ordering::Relaxed),
                ); )*
            }
        }
    };
}

metrics! {
    /// One while this node leads the zone's catalogue.
    leads,
    /// One while somebody is known to lead it.
    has_leader,
    /// The term of the zone's consensus.
    term,
    /// Nodes that vote in the zone.
    voters,
    /// Nodes that are given every entry of the zone's log and do not vote.
    learners,
    /// The newest version of the catalogue that is committed here.
    catalogue_version,
    /// The version that this node's shards were told last.
    catalogue_published,
    /// Nodes that this node's control thread is linked to.
    links,
    /// Changes of the catalogue that wait for somebody to conclude them, or for their answer.
    changes_waiting,
}
