//! Damage has to be known to whoever runs the node at once, and a machine cannot speak: it rings here, and whoever serves it
//! listens. Rings on the machine's own thread, seldom, and never decides anything.

use crate::outcome::Damage;
use core::fmt;
use std::sync::{Arc, OnceLock};

type Listener = Box<dyn Fn(&Damage) + Send + Sync>;

/// See the module. Clones ring the same bell.
#[derive(Clone, Default)]
pub struct Alarm(Arc<OnceLock<Listener>>);

impl Alarm {
    /// Tells `listener` of damage from now on. Only the first one ever given listens.
    pub fn listen(&self, listener: impl Fn(&Damage) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(listener));
    }

    /// Damage was found.
    pub fn ring(&self, damage: &Damage) {
        if let Some(listener) = self.0.get() {
            listener(damage);
        }
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm")
            .field("listens", &self.0.get().is_some())
            .finish()
    }
}
