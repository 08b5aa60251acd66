//! What a link promises and what it does not, shown by moving it step by step.

use super::*;

const MACHINE: MachineId = MachineId {
    node: 0,
    machine: 0,
};
const ACTOR: ActorId = ActorId(0);

/// A network with one link, its queue, and what came out of it.
struct Bench {
    network: Network,
    prng: Prng,
    faults: Faults,
    buffers: ReceiveBuffers,
    now_ns: u64,
    queue: Vec<(u64, LinkId, Step)>,
    events: Vec<Event>,
    told: Vec<ActorEvent>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        Self {
            network: Network::default(),
            prng: Prng::new(seed),
            faults: Faults::none(),
            buffers: ReceiveBuffers::new(1000),
            now_ns: 0,
            queue: Vec::new(),
            events: Vec::new(),
            told: Vec::new(),
        }
    }

    fn connected(seed: u64) -> (Self, LinkId, ConnectionId) {
        let mut bench = Self::new(seed);
        let link = bench.with(|network, prng, out| network.connect(ACTOR, MACHINE, prng, out));
        bench.settle();
        let Some(Event::Accepted { conn, .. }) = bench.events.pop() else {
            panic!("a serving machine accepts");
        };
        assert_eq!(bench.told.pop(), Some(ActorEvent::Connected(link)));
        (bench, link, conn)
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Network, &mut Prng, &mut Vec<Output>) -> T) -> T {
        let mut out = Vec::new();
        let result = act(&mut self.network, &mut self.prng, &mut out);
        for output in out {
            match output {
                Output::Machine(_, event) => self.events.push(event),
                Output::Actor(_, event) => self.told.push(event),
                Output::Later(delay_ns, link, step) => {
                    self.queue.push((self.now_ns + delay_ns, link, step));
                }
            }
        }
        result
    }

    /// Runs the queue dry, or so far.
    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some(first) = (0..self.queue.len()).min_by_key(|at| self.queue[*at].0) else {
                return;
            };
            let (at_ns, link, step) = self.queue.swap_remove(first);
            self.now_ns = at_ns;
            let buffers = self.buffers.clone();
            let mut faults = self.faults.clone();
            self.with(|network, prng, out| {
                network.step(at_ns, link, step, true, &buffers, &mut faults, prng, out);
            });
            self.faults = faults;
        }
    }

    fn settle(&mut self) {
        self.run(100_000);
    }

    fn send(&mut self, conn: ConnectionId, op: u64, bytes: usize) {
        let parts = vec![
            Bytes::from(vec![1; bytes / 2]),
            Bytes::from(vec![2; bytes - bytes / 2]),
        ];
        self.with(|network, prng, out| {
            network.send(MACHINE, conn, OpId::new(op), parts, prng, out);
        });
    }

    fn received_by_client(&self) -> usize {
        let pieces = self.told.iter().map(|event| match event {
            ActorEvent::Received(_, data) => data.len(),
            _ => 0,
        });
        pieces.sum()
    }

    fn sent(&self) -> Vec<(u64, bool)> {
        let sent = self.events.iter().filter_map(|event| match event {
            Event::Sent {
                sent_bytes, alive, ..
            } => Some((*sent_bytes, *alive)),
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn bytes_arrive_in_order_whatever_their_pieces() {
    for seed in 0..50 {
        let (mut bench, link, _) = Bench::connected(seed);
        let bytes: Vec<u8> = (0..200_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        for piece in bytes.chunks(30_000) {
            let piece = Bytes::copy_from_slice(piece);
            bench.with(|network, prng, out| network.client_sends(link, piece, prng, out));
        }
        bench.settle();
        let mut arrived = Vec::new();
        for event in &bench.events {
            if let Event::Received { data, .. } = event {
                assert!(!data.is_empty());
                arrived.extend_from_slice(data);
            }
        }
        assert_eq!(arrived, bytes, "seed {seed}");
    }
}

#[test]
fn a_send_ends_once_the_socket_took_its_last_byte_and_not_before_the_reader_makes_room() {
    let (mut bench, link, conn) = Bench::connected(1);
    bench.with(|network, prng, out| network.client_reads(link, false, prng, out));
    bench.send(conn, 1, 8 << 20);
    bench.settle();
    assert_eq!(bench.sent(), []);
    bench.with(|network, prng, out| network.client_reads(link, true, prng, out));
    bench.settle();
    assert_eq!(bench.sent(), [(8 << 20, true)]);
    assert_eq!(bench.received_by_client(), 8 << 20);
}

#[test]
fn a_cancelled_send_says_how_far_it_came_and_the_connection_goes_on() {
    let (mut bench, link, conn) = Bench::connected(2);
    bench.with(|network, prng, out| network.client_reads(link, false, prng, out));
    bench.send(conn, 1, 8 << 20);
    bench.with(|network, prng, out| network.cancel_send(MACHINE, conn, prng, out));
    bench.settle();
    let [(sent_bytes, true)] = bench.sent()[..] else {
        panic!("one send ended: {:?}", bench.sent());
    };
    assert!(sent_bytes > 0 && sent_bytes < 8 << 20);
    bench.send(conn, 2, 10);
    bench.with(|network, prng, out| network.client_reads(link, true, prng, out));
    bench.settle();
    assert_eq!(bench.received_by_client() as u64, sent_bytes + 10);
}

#[test]
fn closed_comes_last_and_after_the_send_in_flight() {
    for seed in 0..50 {
        let (mut bench, link, conn) = Bench::connected(seed);
        bench.with(|network, prng, out| network.client_reads(link, false, prng, out));
        bench.send(conn, 1, 8 << 20);
        bench.with(|network, prng, out| {
            network.client_sends(link, Bytes::from_static(b"late"), prng, out);
        });
        bench.with(|network, prng, out| network.close(MACHINE, conn, prng, out));
        bench.settle();
        assert_eq!(bench.sent().len(), 1);
        assert!(
            !bench.sent()[0].1,
            "a send on a closing connection did not come through"
        );
        assert!(
            matches!(bench.events.last(), Some(Event::Closed { .. })),
            "{:?}",
            bench.events
        );
    }
}

#[test]
fn a_reset_tells_both_ends_and_ends_the_send() {
    let (mut bench, link, conn) = Bench::connected(3);
    bench.with(|network, prng, out| network.client_reads(link, false, prng, out));
    bench.send(conn, 1, 8 << 20);
    bench.with(|network, prng, out| network.reset(link, prng, out));
    bench.settle();
    assert!(matches!(bench.sent()[..], [(_, false)]));
    assert!(
        bench
            .events
            .iter()
            .any(|event| matches!(event, Event::Hangup { .. }))
    );
    assert_eq!(bench.told, [ActorEvent::Closed(link)]);
}

#[test]
fn nothing_is_received_while_the_machine_holds_all_buffers() {
    let (mut bench, link, _) = Bench::connected(4);
    bench.buffers = ReceiveBuffers::new(1);
    for _ in 0..2 {
        bench.with(|network, prng, out| {
            network.client_sends(link, Bytes::from(vec![0; 100_000]), prng, out);
        });
    }
    bench.run(1000);
    assert_eq!(
        bench.events.len(),
        1,
        "the second piece waits for the first buffer"
    );
    bench.events.clear();
    bench.run(1000);
    assert_eq!(bench.events.len(), 1);
}

#[test]
fn half_a_close_still_lets_the_node_answer() {
    let (mut bench, link, conn) = Bench::connected(5);
    bench.with(|network, prng, out| network.client_ends(link, prng, out));
    bench.settle();
    assert!(matches!(bench.events[..], [Event::Hangup { .. }]));
    bench.send(conn, 1, 100);
    bench.settle();
    assert_eq!(bench.received_by_client(), 100);
}

#[test]
#[should_panic(expected = "two sends in flight")]
fn two_sends_at_once_are_refused() {
    let (mut bench, _, conn) = Bench::connected(6);
    bench.send(conn, 1, 10);
    bench.send(conn, 2, 10);
}

#[test]
#[should_panic(expected = "after closing it")]
fn a_send_after_the_close_is_refused() {
    let (mut bench, _, conn) = Bench::connected(7);
    bench.with(|network, prng, out| network.close(MACHINE, conn, prng, out));
    bench.send(conn, 1, 10);
}
