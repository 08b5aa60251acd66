//! A wish to be woken at a time, of which only the last counts. Keeps the queue free of alarms that were put off: one
//! happening looks, and looks again later when the wish has moved.

/// A wish to be woken, and the earliest happening that will look at it.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    wanted_ns: Option<u64>,
    scheduled_ns: Option<u64>,
}

impl Alarm {
    /// Sets the time wanted; the time at which somebody must look, if nobody does by then.
    pub(super) fn set(&mut self, at_ns: u64) -> Option<u64> {
        self.wanted_ns = Some(at_ns);
        let needed = self.scheduled_ns.is_none_or(|scheduled| scheduled > at_ns);
        if needed {
            self.scheduled_ns = Some(at_ns);
        }
        needed.then_some(at_ns)
    }

    /// Somebody looks: rings, or says when to look again.
    pub(super) fn look(&mut self, now_ns: u64) -> (bool, Option<u64>) {
        if self
            .scheduled_ns
            .is_some_and(|scheduled| scheduled <= now_ns)
        {
            self.scheduled_ns = None;
        }
        match self.wanted_ns {
            Some(wanted) if wanted <= now_ns => {
                self.wanted_ns = None;
                (true, None)
            }
            Some(wanted) if self.scheduled_ns.is_none_or(|scheduled| scheduled > wanted) => {
                self.scheduled_ns = Some(wanted);
                (false, Some(wanted))
            }
            Some(_) | None => (false, None),
        }
    }
}
