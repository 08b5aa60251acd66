//! A machine's turn, as its driver runs it, and what becomes of its effects: operations of its disk, of the network, the
//! mesh and the clock. A node may die between any two of them.

use std::ops::Range;

use tiderace_base::disk::JournalFile;
use tiderace_base::ids::ConnectionId;
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::{Effect, Effects, Event, OpId};

use super::{Death, Happening, World};
use crate::world::MachineId;
use crate::world::disk::{Ending, Operation};
use crate::world::faults::Fault;
use crate::world::mesh::Notice;

/// Places of reads that went wrong and are spared: more than are under way together.
const READS_GONE_WRONG_MAX: usize = 16;

impl World {
    /// A turn of a machine, as its driver runs it.
    pub(super) fn turn(&mut self, id: MachineId) {
        let now = self.node(id.node).clock.clone().read(self.now_ns);
        self.seat(id).turn_scheduled = false;
        let ready = self.seat(id).inbox.len() as u64;
        let count = if ready > 1 && self.prng.chance(1, 4) {
            self.prng.range(1, ready + 1)
        } else {
            ready
        };
        let Some(mut machine) = self.seat(id).machine.take() else {
            return;
        };
        let mut effects = Effects::new();
        for _ in 0..count {
            let Some(event) = self.seat(id).inbox.pop_front() else {
                break;
            };
            self.trace.event(id, &event);
            machine.step(now, event, &mut effects);
            if !self.execute_all(id, &mut effects) {
                return;
            }
        }
        machine.finish_turn(now, &mut effects);
        if !self.execute_all(id, &mut effects) {
            return;
        }
        self.seat(id).machine = Some(machine);
        if !self.seat(id).inbox.is_empty() {
            self.schedule_turn(id);
        }
    }

    /// Executes effects in order. False: the node died on the way.
    pub(super) fn execute_all(&mut self, id: MachineId, effects: &mut Effects) -> bool {
        for effect in effects.drain(..) {
            self.trace.effect(id, &effect);
            if !self.execute(id, effect) {
                return false;
            }
            match &mut self.node(id.node).doom {
                Some((0, death)) => {
                    let death = *death;
                    self.die(id.node, death);
                    return false;
                }
                Some((left, _)) => *left -= 1,
                None => {}
            }
        }
        true
    }

    pub(super) fn execute(&mut self, id: MachineId, effect: Effect) -> bool {
        match effect {
            Effect::Write {
                op,
                file,
                at,
                data,
                durable,
            } => {
                let span = 15_000 + data.len() as u64 / 4;
                self.submit(
                    id,
                    op,
                    Operation::Write {
                        file,
                        at,
                        data,
                        durable,
                    },
                    span,
                    Some(Fault::WriteError),
                );
            }
            Effect::Read { op, file, at, len } => {
                let span = 60_000 + u64::from(len) / 4;
                self.submit(id, op, Operation::Read { file, at, len }, span, None);
            }
            Effect::Sync { op, file } => {
                self.submit(
                    id,
                    op,
                    Operation::Sync { file },
                    200_000,
                    Some(Fault::SyncError),
                );
            }
            Effect::Prepare { op, file, bytes } => {
                self.submit(
                    id,
                    op,
                    Operation::Prepare { file, bytes },
                    200_000 + bytes,
                    None,
                );
            }
            Effect::Remove { op, file } => {
                self.submit(id, op, Operation::Remove { file }, 200_000, None);
            }
            Effect::Connect { op, to, peer } => {
                self.with_peers(|peers, hand| peers.connect(id, op, to, peer, hand));
            }
            Effect::ServeNodes(serving) => self.seat(id).serving_nodes = serving,
            Effect::Send { conn, .. }
            | Effect::CancelSend { conn }
            | Effect::Receive { conn, .. }
            | Effect::Finish { conn }
            | Effect::Close { conn } => {
                if self.peers.has(conn) {
                    self.execute_on_peer_link(id, conn, effect);
                } else {
                    self.execute_on_link(id, conn, effect);
                }
            }
            Effect::Post { to, message } => {
                if let Message::Snapshot(snapshot) = &message {
                    self.node(id.node).tombstones = snapshot.tombstones.size();
                }
                let to = self.peer(id.node, to);
                let (first, notice) = self.mesh.post(id, to, message);
                if first {
                    let incarnation = self.node(id.node).incarnation;
                    let delay_ns = self.prng.range(200, 20_000);
                    self.push(delay_ns, Happening::Mesh(id, to, incarnation));
                }
                self.notify_mesh(id, to, notice);
            }
            Effect::WakeAt(mono) => {
                let at_ns = self
                    .node(id.node)
                    .clock
                    .world_ns(mono)
                    .max(self.now_ns + 500);
                let incarnation = self.node(id.node).incarnation;
                if let Some(at_ns) = self.seat(id).alarm.set(at_ns) {
                    self.push_at(at_ns, Happening::Timer(id, incarnation));
                }
            }
            Effect::Serve => self.seat(id).serving = true,
            Effect::Refuse => self.seat(id).serving = false,
            Effect::Stopped => {
                let seat = self.seat(id);
                seat.stopped = true;
                seat.serving = false;
                seat.serving_nodes = false;
                let seats = &self.node(id.node).seats;
                if seats.iter().all(|seat| seat.stopped) {
                    self.die(id.node, Death::Exit);
                    return false;
                }
                let mut shards = seats.iter().filter(|seat| seat.peer != Peer::Control);
                if shards.all(|seat| seat.stopped) {
                    let control = self.peer(id.node, Peer::Control);
                    self.deliver(control, Event::Stop);
                }
            }
            Effect::Fatal(reason) => {
                if self.node(id.node).has_cause {
                    self.faults.note(Fault::FatalExit);
                } else {
                    self.judge.refuse(
                        "fatal_needs_a_cause",
                        format!("{id} says without any fault: {reason}"),
                        self.now_ns,
                    );
                }
                self.die(id.node, Death::Kill);
                return false;
            }
        }
        true
    }

    /// An effect on a client's connection.
    fn execute_on_link(&mut self, id: MachineId, conn: ConnectionId, effect: Effect) {
        let (network, prng, out) = (&mut self.network, &mut self.prng, &mut self.outputs);
        match effect {
            Effect::Send { op, parts, .. } => network.send(id, conn, op, parts, prng, out),
            Effect::CancelSend { .. } => network.cancel_send(id, conn, prng, out),
            Effect::Receive { wanted, .. } => network.receive(id, conn, wanted, prng, out),
            Effect::Finish { .. } => network.finish(id, conn, prng, out),
            Effect::Close { .. } => network.close(id, conn, prng, out),
            other => unreachable!("{other:?} names no connection"),
        }
        self.carry_out();
    }

    /// An effect on a link between nodes.
    fn execute_on_peer_link(&mut self, id: MachineId, conn: ConnectionId, effect: Effect) {
        self.with_peers(|peers, hand| match effect {
            Effect::Send { op, parts, .. } => peers.send(id, conn, op, parts, hand),
            Effect::CancelSend { .. } => peers.cancel_send(id, conn, hand),
            Effect::Receive { wanted, .. } => peers.receive(id, conn, wanted, hand),
            Effect::Finish { .. } => peers.finish(id, conn, hand),
            Effect::Close { .. } => peers.close(id, conn, hand),
            other => unreachable!("{other:?} names no connection"),
        });
    }

    pub(super) fn submit(
        &mut self,
        id: MachineId,
        op: OpId,
        operation: Operation,
        span_ns: u64,
        error: Option<Fault>,
    ) {
        let mut ending = Ending::Done;
        if let Some(fault) = error {
            if self.faults.fires(fault, &mut self.prng) {
                ending = Ending::Failed;
            } else if matches!(fault, Fault::WriteError | Fault::SyncError)
                && self.faults.fires(Fault::LyingDisk, &mut self.prng)
            {
                ending = Ending::Lied;
            }
        }
        if let Operation::Read { file, at, len } = operation {
            ending = self.read_ending(id, file, at..at + u64::from(len));
        }
        let opens = matches!(
            operation,
            Operation::Read { .. } | Operation::Prepare { .. }
        );
        if opens && ending == Ending::Done && self.faults.fires(Fault::NotOpened, &mut self.prng) {
            ending = Ending::NotOpened;
        }
        // A read that fails is no reason to end.
        if ending == Ending::Failed && error.is_some() {
            self.node(id.node).has_cause = true;
        }
        let mut delay_ns = self.prng.range(span_ns / 2, span_ns * 2);
        if self.faults.fires(Fault::DiskSlow, &mut self.prng) {
            delay_ns += self.prng.range(500_000, 40_000_000);
        }
        let now_ns = self.now_ns;
        if self.faults.fires(Fault::DiskStall, &mut self.prng) {
            self.seat(id).stalled_until_ns = now_ns + self.prng.range(100_000_000, 5_000_000_000);
        }
        let seat = self.seat(id);
        delay_ns += seat.stalled_until_ns.saturating_sub(now_ns);
        seat.disk.submit(op, operation);
        let incarnation = self.node(id.node).incarnation;
        self.push(delay_ns, Happening::Disk(id, incarnation, op, ending));
    }

    /// How a read ends. Where one went wrong of late, none does.
    fn read_ending(&mut self, id: MachineId, file: JournalFile, place: Range<u64>) -> Ending {
        let seat = &self.nodes[usize::from(id.node)].seats[usize::from(id.machine)];
        let is_spared = |(of, gone_wrong): &(JournalFile, Range<u64>)| {
            *of == file && gone_wrong.start < place.end && place.start < gone_wrong.end
        };
        if seat.reads_gone_wrong.iter().any(is_spared) {
            return Ending::Done;
        }
        let kinds = [
            (Fault::ReadError, Ending::Failed),
            (Fault::ReadFlip, Ending::Flipped),
            (Fault::ReadElsewhere, Ending::Elsewhere),
        ];
        for (fault, ending) in kinds {
            if self.faults.fires(fault, &mut self.prng) {
                let gone_wrong = &mut self.seat(id).reads_gone_wrong;
                gone_wrong.push_back((file, place));
                if gone_wrong.len() > READS_GONE_WRONG_MAX {
                    gone_wrong.pop_front();
                }
                return ending;
            }
        }
        Ending::Done
    }

    pub(super) fn peer(&self, node: u16, peer: Peer) -> MachineId {
        let seats = &self.nodes[usize::from(node)].seats;
        let place = seats.iter().position(|seat| seat.peer == peer);
        let machine =
            place.unwrap_or_else(|| panic!("contract: node {node} has no {peer:?} to post to"));
        MachineId {
            node,
            machine: u16::try_from(machine).expect("machines are few"),
        }
    }

    pub(super) fn carry(&mut self, from: MachineId, to: MachineId, incarnation: u32) {
        let Some((message, more, notice)) = self.mesh.take(from, to) else {
            return;
        };
        let peer = self.seat(from).peer;
        self.deliver(
            to,
            Event::Posted {
                from: peer,
                message,
            },
        );
        if more {
            let delay_ns = self.prng.range(100, 3_000);
            self.push(delay_ns, Happening::Mesh(from, to, incarnation));
        }
        self.notify_mesh(from, to, notice);
    }

    pub(super) fn notify_mesh(&mut self, sender: MachineId, to: MachineId, notice: Option<Notice>) {
        let peer = self.seat(to).peer;
        match notice {
            Some(Notice::Full) => self.deliver(sender, Event::MeshFull(peer)),
            Some(Notice::Open) => self.deliver(sender, Event::MeshOpen(peer)),
            None => {}
        }
    }

    /// Puts an event into a machine's inbox.
    pub(super) fn deliver(&mut self, id: MachineId, event: Event) {
        if self.node(id.node).up {
            self.seat(id).inbox.push_back(event);
            self.schedule_turn(id);
        }
    }

    pub(super) fn schedule_turn(&mut self, id: MachineId) {
        if self.seat(id).turn_scheduled {
            return;
        }
        self.seat(id).turn_scheduled = true;
        let mut delay_ns = self.prng.range(200, 4_000);
        if self.faults.fires(Fault::Pause, &mut self.prng) {
            delay_ns += self.prng.range(1_000_000, 700_000_000);
        }
        let incarnation = self.node(id.node).incarnation;
        self.push(delay_ns, Happening::Turn(id, incarnation));
    }
}
