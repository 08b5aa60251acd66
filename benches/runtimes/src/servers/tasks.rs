//! What the two runtimes with tasks share, so that they differ in nothing but the runtime: a signal between tasks of one
//! thread, a connection's outgoing acknowledgements, and the steps of an append. No lock, no channel: a signal is a list
//! of wakers, which is less than any channel of either runtime does. Invariant: whoever waits looks again before sleeping.

use super::fatal;
use crate::commit::{Appended, Chunk, Group, Taken};
use crate::protocol::{FrameBuffer, Kind, Requests, ack};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes tasks of the same thread.
#[derive(Debug, Default)]
pub(crate) struct Signal(RefCell<VecDeque<Waker>>);

impl Signal {
    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match look() {
            Some(found) => Poll::Ready(found),
            None => {
                self.0.borrow_mut().push_back(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Wakes the one that waits longest.
    pub(crate) fn one(&self) {
        let waker = self.0.borrow_mut().pop_front();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes all.
    pub(crate) fn all(&self) {
        let wakers = std::mem::take(&mut *self.0.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }
}

/// The acknowledgements of one connection that its writer has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: RefCell<Vec<u8>>,
    closed: Cell<bool>,
    signal: Signal,
}

impl Outbox {
    fn push(&self, bytes: &[u8]) {
        let mut waiting = self.bytes.borrow_mut();
        let first = waiting.is_empty();
        waiting.extend_from_slice(bytes);
        drop(waiting);
        if first {
            self.signal.one();
        }
    }

    /// Nothing more is pushed: the writer ends when it has taken what is there.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.signal.one();
    }

    /// Waits for acknowledgements and takes all of them; `empty` stays behind in their place. `None` at the end.
    pub(crate) async fn take(&self, empty: Vec<u8>) -> Option<Vec<u8>> {
        let mut empty = Some(empty);
        self.signal
            .until(|| {
                if self.bytes.borrow().is_empty() {
                    return self.closed.get().then_some(None);
                }
                let mut empty = empty.take().unwrap_or_default();
                empty.clear();
                Some(Some(self.bytes.replace(empty)))
            })
            .await
    }
}

/// Who waits for an append.
type Waiting = (Rc<Outbox>, u64);

/// The group commit of one server, between the tasks that read and those that write.
#[derive(Debug)]
pub(crate) struct Committer<C> {
    group: RefCell<Group<C, Waiting>>,
    work: Signal,
    room: Signal,
}

impl<C: Chunk> Committer<C> {
    pub(crate) fn new(group: Group<C, Waiting>) -> Self {
        Self {
            group: RefCell::new(group),
            work: Signal::default(),
            room: Signal::default(),
        }
    }

    async fn append(&self, frame: &[u8], outbox: &Rc<Outbox>, seq: u64, make: impl Fn() -> C) {
        self.room
            .until(|| {
                let waiting = (Rc::clone(outbox), seq);
                let appended = self
                    .group
                    .borrow_mut()
                    .append(frame.len(), [frame], waiting, &make);
                match appended {
                    Appended::First => self.work.one(),
                    Appended::Joined => {}
                    Appended::Full => return None,
                }
                Some(())
            })
            .await;
    }

    /// The next chunk to write. As many tasks call this as chunks may be in flight.
    pub(crate) async fn next(&self) -> Taken<C> {
        let taken = self.work.until(|| self.group.borrow_mut().take()).await;
        self.room.all();
        taken
    }

    /// A chunk is on the disk. `spare` is its memory, if that is used again.
    pub(crate) fn done(&self, id: u64, spare: Option<C>) {
        let mut group = self.group.borrow_mut();
        if let Some(spare) = spare {
            group.give_back(spare);
        }
        group.done(id, |(outbox, seq), crc| outbox.push(&ack(seq, crc)));
    }
}

/// What a connection has said.
pub(crate) enum Heard {
    /// Everything whole was taken; the replies to echoes stand in the buffer given.
    Echoes,
    /// Everything whole was appended.
    Appends,
    /// Nothing whole yet.
    Nothing,
}

/// Takes every whole frame of a connection: echoes go to `replies`, appends to the group commit.
pub(crate) async fn take_frames<C: Chunk>(
    buffer: &mut FrameBuffer,
    requests: &mut Requests,
    replies: &mut Vec<u8>,
    committer: &Committer<C>,
    outbox: &Rc<Outbox>,
    make: impl Fn() -> C,
) -> Heard {
    let mut heard = Heard::Nothing;
    loop {
        let (header, frame) = match buffer.next() {
            Ok(None) => return heard,
            Ok(Some(next)) => next,
            Err(broken) => fatal(broken),
        };
        if let Err(broken) = requests.check(header) {
            fatal(broken);
        }
        if header.kind == Kind::Echo {
            replies.extend_from_slice(frame);
            heard = Heard::Echoes;
        } else {
            committer.append(frame, outbox, header.seq, &make).await;
            heard = Heard::Appends;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::AlignedVec;
    use crate::protocol::{ACK_BYTES, HEADER_BYTES, Header};
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_signal_wakes_in_order_and_looks_again() {
        let signal = Signal::default();
        let found = Cell::new(0);
        let look = || (found.get() > 0).then(|| found.replace(found.get() - 1));
        let (mut one, mut two) = (pin!(signal.until(look)), pin!(signal.until(look)));
        assert_eq!(poll_once(one.as_mut()), None);
        assert_eq!(poll_once(two.as_mut()), None);
        found.set(1);
        signal.one();
        assert_eq!(signal.0.borrow().len(), 1);
        assert_eq!(poll_once(one.as_mut()), Some(1));
        assert_eq!(poll_once(two.as_mut()), None);
        signal.all();
        assert!(signal.0.borrow().is_empty());
    }

    #[test]
    fn appends_that_find_no_room_wait_and_are_acknowledged_in_order() {
        const PAYLOAD: usize = 60_000;
        let committer = Committer::new(Group::new(1 << 20, 1));
        let outbox = Rc::new(Outbox::default());
        let (mut buffer, mut requests) = (FrameBuffer::new(), Requests::default());
        let mut replies = Vec::new();
        for seq in 0..20 {
            let header = Header {
                length: PAYLOAD,
                kind: Kind::Append,
                seq,
            };
            let mut frame = header.bytes().to_vec();
            frame.resize(HEADER_BYTES + PAYLOAD, 7);
            buffer.room()[..frame.len()].copy_from_slice(&frame);
            buffer.received(frame.len());
            let mut taking = pin!(take_frames(
                &mut buffer,
                &mut requests,
                &mut replies,
                &committer,
                &outbox,
                AlignedVec::new,
            ));
            let taken = poll_once(taking.as_mut());
            // Eight fit; the ninth waits until the chunk is taken, and is then the first of the next.
            if taken.is_none() {
                let taken = poll_once(pin!(committer.next())).expect("a chunk");
                assert!(poll_once(taking.as_mut()).is_some());
                committer.done(taken.id, None);
            }
        }
        let taken = poll_once(pin!(committer.next())).expect("a chunk");
        committer.done(taken.id, None);
        let acks = poll_once(pin!(outbox.take(Vec::new()))).expect("ready");
        let acks = acks.expect("open");
        assert_eq!(acks.len(), 20 * ACK_BYTES);
        for (seq, ack) in acks.chunks(ACK_BYTES).enumerate() {
            let header = Header::parse(*ack.first_chunk().expect("a header")).expect("an ack");
            assert_eq!(header.seq, seq as u64);
        }
        outbox.close();
        assert_eq!(poll_once(pin!(outbox.take(Vec::new()))), Some(None));
        assert!(replies.is_empty());
    }
}
