//! How nodes die, start again, and what else may happen to a whole node: its wall clock is set, its disk fills up, an
//! operator stops it.

use tiderace_base::time::Now;

use super::{Alarm, Death, Happening, World};
use crate::history::Observation;
use crate::world::disk::SimDisk;
use crate::world::faults::Fault;
use crate::world::network::ReceiveBuffers;
use crate::world::{BootError, MachineId};

impl World {
    /// A few times in a simulated second, something may happen to a whole node.
    pub(super) fn disturb(&mut self) {
        if !self.faults.active() {
            return;
        }
        self.look_at_memory();
        if self.nodes.len() > 1 && self.faults.fires(Fault::Partition, &mut self.prng) {
            self.cut_somewhere();
        }
        for index in 0..self.nodes.len() {
            let node = u16::try_from(index).expect("nodes are few");
            if self.faults.fires(Fault::WallJump, &mut self.prng) {
                let by_us = self.prng.below(7_200_000_000) as i64 - 3_600_000_000;
                self.node(node).clock.jump(by_us);
                self.observe(&Observation::ClockSet { node });
            }
            if self.faults.fires(Fault::DiskFull, &mut self.prng) {
                for seat in &self.nodes[index].seats {
                    let slack = self.prng.below(256 * 1024);
                    seat.disk.set_capacity(seat.disk.used_bytes() + slack);
                }
                let within = self.prng.range(100_000_000, 3_000_000_000);
                self.push(within, Happening::DiskFree(node));
            }
            if !self.nodes[index].up || self.nodes[index].doom.is_some() {
                continue;
            }
            let death = if self.faults.fires(Fault::PowerLoss, &mut self.prng) {
                Some(Death::Power)
            } else if self.faults.fires(Fault::Kill, &mut self.prng) {
                Some(Death::Kill)
            } else {
                None
            };
            if let Some(death) = death {
                // Now, in the middle of the next turn, or a good while later: points that no schedule would think of.
                match self.prng.below(3) {
                    0 => self.die(node, death),
                    1 => self.node(node).doom = Some((self.prng.below(8) as u32, death)),
                    _ => self.node(node).doom = Some((self.prng.below(200) as u32, death)),
                }
            } else if self.faults.fires(Fault::OrderlyStop, &mut self.prng) {
                self.ask_to_stop(node);
            }
        }
        let pause_ns = self.prng.range(5_000_000, 300_000_000);
        self.push(pause_ns, Happening::Disturb);
    }

    pub(super) fn free_disks(&mut self, node: usize) {
        for seat in &self.nodes[node].seats {
            seat.disk.set_capacity(u64::MAX);
        }
    }

    /// A node's process ends; it starts again a little later.
    pub(super) fn die(&mut self, node: u16, death: Death) {
        if !self.nodes[usize::from(node)].up {
            return;
        }
        self.look_for_strangers();
        self.look_at_memory();
        self.trace.note("died", death as u64);
        let now_ns = self.now_ns;
        self.network.node_died(
            node,
            death == Death::Power,
            &mut self.prng,
            &mut self.outputs,
        );
        let power = death == Death::Power;
        self.with_peers(|peers, hand| peers.node_died(node, power, hand));
        self.mesh.node_died(node);
        let state = &mut self.nodes[usize::from(node)];
        state.up = false;
        state.has_power = !power;
        state.incarnation += 1;
        state.doom = None;
        state.has_cause = false;
        for seat in &mut state.seats {
            seat.machine = None;
            seat.inbox.clear();
            seat.turn_scheduled = false;
            seat.alarm = Alarm::default();
            seat.serving = false;
            seat.serving_nodes = false;
            seat.stopped = false;
            seat.stalled_until_ns = 0;
            seat.buffers = ReceiveBuffers::new(self.receive_buffers);
            match death {
                Death::Power => self
                    .faults
                    .note_losses(seat.disk.lose_power(&mut self.prng)),
                Death::Kill | Death::Exit => seat.disk.kill(&mut self.prng),
            }
        }
        if death == Death::Power {
            state.clock.power_cycled(now_ns);
        }
        if death != Death::Exit {
            self.counts.crashes += 1;
        }
        // The properties know one node with data: who has none takes nothing with it.
        if self.nodes[usize::from(node)].program.holds_data() {
            self.observe(&Observation::NodeDied {
                node,
                power: death == Death::Power,
                stopped: death == Death::Exit,
            });
        }
        let pause_ns = self.prng.range(200_000, 300_000_000);
        self.push(pause_ns, Happening::Start(node));
        self.carry_out();
    }

    pub(super) fn start(&mut self, node: u16) {
        let seed = self.prng.next_u64();
        let will_fail = self
            .faults
            .is_drawn(Fault::PowerLossInRecovery, &mut self.prng);
        let kills = !will_fail && self.faults.is_drawn(Fault::KillInRecovery, &mut self.prng);
        let operations = (will_fail || kills).then(|| self.prng.below(30));
        let now: Now = self.node(node).clock.clone().read(self.now_ns);
        let state = self.node(node);
        state.has_power = true;
        state.power.fail_after(operations);
        let disks: Vec<SimDisk> = state.seats.iter().map(|seat| seat.disk.clone()).collect();
        let booted = state.program.boot(&disks, now, seed);
        let lost = state.power.is_lost();
        state.power.fail_after(None);
        self.trace.note("boot", u64::from(booted.is_ok()));
        // Every disk is asked: the answer is taken back with the question.
        let full_disks = disks.iter().filter(|disk| disk.take_was_full()).count();
        let machines = match booted {
            Ok(machines) if !lost => machines,
            Err(BootError::Refused(_)) if !lost && full_disks > 0 => {
                // It may say that it needs space. Its supervisor tries again.
                let pause_ns = self.prng.range(50_000_000, 500_000_000);
                self.push(pause_ns, Happening::Start(node));
                return;
            }
            Err(BootError::Refused(reason)) if !lost => {
                self.judge.refuse(
                    "recovery_never_refuses_a_sound_disk",
                    format!("node {node}: {reason}"),
                    self.now_ns,
                );
                return;
            }
            Ok(_) | Err(_) => {
                self.counts.crashes += 1;
                if kills {
                    self.faults.note(Fault::KillInRecovery);
                } else {
                    for disk in &disks {
                        self.faults.note_losses(disk.lose_power(&mut self.prng));
                    }
                    self.faults.note(Fault::PowerLossInRecovery);
                    let now_ns = self.now_ns;
                    self.node(node).clock.power_cycled(now_ns);
                }
                let pause_ns = self.prng.range(200_000, 50_000_000);
                self.push(pause_ns, Happening::Start(node));
                return;
            }
        };
        let state = self.node(node);
        assert_eq!(
            machines.len(),
            state.seats.len(),
            "one machine for each journal"
        );
        state.up = true;
        let incarnation = state.incarnation;
        for (seat, machine) in state.seats.iter_mut().zip(machines) {
            seat.machine = Some(machine);
        }
        if incarnation > 0 {
            self.counts.restarts += 1;
        }
        // Troubles come in rows: what a recovery wrote must stand the next one.
        if self.faults.fires(Fault::PowerLoss, &mut self.prng) {
            let at_most = 1 << self.prng.below(7);
            let after = self.prng.below(at_most) as u32;
            self.node(node).doom = Some((after, Death::Power));
        }
        self.observe(&Observation::NodeStarted { node });
        for machine in 0..self.machines[usize::from(node)] {
            // A first turn without events, in which the machine may ask for what it needs.
            self.schedule_turn(MachineId { node, machine });
        }
    }
}
