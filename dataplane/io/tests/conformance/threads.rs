//! Timers, the mesh, stopping, and what becomes of a driver whose machine panics.

use crate::world::{Folder, Scripted, start};
use std::sync::{Arc, mpsc};
use tiderace_base::disk::JournalFile;
use tiderace_base::ids::ShardId;
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::{Effect, Effects, Event, OpId};
use tiderace_base::position::CatalogueVersion;
use tiderace_base::time::Mono;
use tiderace_io::{
    Counters, Driver, DriverConfig, JournalDirectory, MeshBuilder, MeshEnd, Outcome,
};

const HOUR_NS: u64 = 3_600_000_000_000;

#[test]
fn a_timer_fires_after_its_time_and_only_the_last_one_asked_for() {
    let mut asked = None;
    let mut fired = 0;
    let mut server = start(
        DriverConfig::default(),
        Scripted::new(move |now, event, effects: &mut Effects| {
            match event {
                None if asked.is_none() => {}
                Some(Event::Timer) => {
                    let at: Mono = asked.take().expect("asked for");
                    assert!(now.mono >= at, "a timer is never early");
                    fired += 1;
                }
                _ => return,
            }
            if fired == 20 {
                effects.push(Effect::Stopped);
                return;
            }
            // The last asked for replaces those before, be they earlier or later.
            let at = now.mono.after_ns(500_000);
            effects.push(Effect::WakeAt(now.mono));
            effects.push(Effect::WakeAt(now.mono.after_ns(HOUR_NS)));
            effects.push(Effect::WakeAt(at));
            asked = Some(at);
        }),
    );
    assert!(matches!(server.join(), Outcome::Stopped));
}

#[test]
fn a_time_that_is_past_fires_at_once_and_a_withdrawn_one_never() {
    let mut rounds = 0;
    let mut withdrawn = false;
    let (ready, asleep) = mpsc::channel();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            None if rounds == 0 => {
                rounds = 1;
                effects.push(Effect::WakeAt(Mono::from_ns(0)));
            }
            Some(Event::Timer) => {
                assert!(!withdrawn, "nothing was asked for any more");
                rounds += 1;
                if rounds < 1000 {
                    effects.push(Effect::WakeAt(Mono::from_ns(1)));
                } else {
                    effects.push(Effect::WakeAt(Mono::from_ns(1)));
                    effects.push(Effect::WakeAt(Mono::from_ns(u64::MAX)));
                    withdrawn = true;
                    ready.send(()).expect("the test listens");
                }
            }
            _ => {}
        }),
    );
    asleep.recv().expect("a thousand timers fire");
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn stopping_is_told_once_and_wakes_a_sleeper() {
    for early in [true, false] {
        let mut stops = 0;
        let mut driver = Driver::new(DriverConfig::default()).expect("io_uring is allowed here");
        let stop = driver.stop_handle();
        let counters = driver.counters();
        if early {
            stop.stop();
        }
        let mut machine = Scripted::new(move |_, event, _: &mut Effects| {
            if let Some(Event::Stop) = event {
                stops += 1;
                assert_eq!(stops, 1);
            }
        });
        let thread = std::thread::spawn(move || driver.run(&mut machine));
        while !early && counters.sleeps.get() == 0 {
            std::thread::yield_now();
        }
        stop.stop();
        stop.clone().stop();
        assert!(matches!(thread.join().expect("no panic"), Outcome::Stopped));
    }
}

fn mesh_of_two(capacity: usize) -> [MeshEnd; 2] {
    let peers = [Peer::Shard(ShardId::new(0)), Peer::Control];
    MeshBuilder::with_capacity(&peers, capacity)
        .expect("descriptors are left")
        .into_ends()
        .try_into()
        .expect("two ends")
}

fn with_mesh(end: MeshEnd) -> DriverConfig {
    DriverConfig {
        mesh: Some(end),
        receive_buffers: 2,
        ..DriverConfig::default()
    }
}

fn polling(config: DriverConfig) -> DriverConfig {
    DriverConfig {
        busy_poll_ns: HOUR_NS,
        ..config
    }
}

fn numbered(number: u64) -> Message {
    Message::Applied(CatalogueVersion::new(number))
}

fn number_of(message: &Message) -> u64 {
    match message {
        Message::Applied(version) => version.get(),
        other => panic!("only numbers are posted here, not {other:?}"),
    }
}

#[test]
fn two_threads_that_sleep_in_turns_wake_each_other() {
    let [_, ponging] = ping_pong(20_000, with_mesh, with_mesh);
    assert!(ponging.sleeps.get() > 0, "somebody had to be woken");
}

#[test]
fn a_thread_that_polls_finds_messages_by_itself_and_wakes_one_that_sleeps() {
    let polls = |end| polling(with_mesh(end));
    let [_, ponging] = ping_pong(2_000, with_mesh, polls);
    assert!(ponging.polls.get() > 0 && ponging.sleeps.get() == 0);
    let both = ping_pong(2_000, polls, polls);
    for counters in both {
        assert!(counters.polls.get() > 0 && counters.sleeps.get() == 0);
    }
}

/// Lets two threads send each other a number in turns, `rounds` times.
fn ping_pong(
    rounds: u64,
    pinging: impl FnOnce(MeshEnd) -> DriverConfig,
    ponging: impl FnOnce(MeshEnd) -> DriverConfig,
) -> [Arc<Counters>; 2] {
    let [left, right] = mesh_of_two(1);
    let (me, peer) = (left.peer(), right.peer());
    let mut next = 1;
    let mut begun = false;
    let mut pinging = start(
        pinging(left),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            None if !begun => {
                begun = true;
                effects.push(Effect::Post {
                    to: peer,
                    message: numbered(0),
                });
            }
            Some(Event::Posted { from, message }) => {
                assert_eq!((from, number_of(&message)), (peer, next));
                effects.push(if next >= rounds {
                    Effect::Stopped
                } else {
                    Effect::Post {
                        to: peer,
                        message: numbered(next + 1),
                    }
                });
                next += 2;
            }
            _ => {}
        }),
    );
    let ponging = start(
        ponging(right),
        Scripted::new(move |_, event, effects: &mut Effects| {
            if let Some(Event::Posted { from, message }) = event {
                assert_eq!(from, me);
                effects.push(Effect::Post {
                    to: from,
                    message: numbered(number_of(&message) + 1),
                });
            }
        }),
    );
    assert!(matches!(pinging.join(), Outcome::Stopped));
    let counters = [&pinging.counters, &ponging.counters].map(Arc::clone);
    assert!(matches!(ponging.finish(), Outcome::Stopped));
    counters
}

#[test]
fn a_thread_that_polls_sees_its_timers_and_its_end() {
    let (ready, fired) = mpsc::channel();
    let mut begun = false;
    let server = start(
        polling(DriverConfig::default()),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            None if !begun => {
                begun = true;
                effects.push(Effect::WakeAt(Mono::from_ns(1)));
            }
            Some(Event::Timer) => ready.send(()).expect("the test listens"),
            _ => {}
        }),
    );
    fired.recv().expect("the timer fires");
    let counters = Arc::clone(&server.counters);
    assert!(matches!(server.finish(), Outcome::Stopped));
    assert_eq!(counters.sleeps.get(), 0);
}

#[test]
fn a_full_mesh_keeps_order_and_says_when_it_opens() {
    const BURST: u64 = 1000;
    const BURSTS: u64 = 20;
    let [left, right] = mesh_of_two(4);
    let peer = right.peer();
    let (done, all) = mpsc::channel();
    let mut posted = 0;
    let mut full = false;
    let sending = start(
        with_mesh(left),
        Scripted::new(move |_, event, effects: &mut Effects| {
            match event {
                Some(Event::MeshFull(to)) => {
                    assert!(to == peer && !full, "full is said once");
                    full = true;
                    return;
                }
                Some(Event::MeshOpen(to)) => {
                    assert!(to == peer && full, "open follows full");
                    full = false;
                }
                None if posted == 0 => {}
                _ => return,
            }
            if posted < BURST * BURSTS {
                for _ in 0..BURST {
                    effects.push(Effect::Post {
                        to: peer,
                        message: numbered(posted),
                    });
                    posted += 1;
                }
            }
        }),
    );
    let mut expected = 0;
    let receiving = start(
        with_mesh(right),
        Scripted::new(move |_, event, _: &mut Effects| {
            if let Some(Event::Posted { message, .. }) = event {
                assert_eq!(number_of(&message), expected);
                expected += 1;
                if expected == BURST * BURSTS {
                    done.send(()).expect("the test listens");
                }
            }
        }),
    );
    all.recv().expect("every message arrives");
    assert!(sending.counters.mesh_waited.get() > 0);
    assert!(matches!(sending.finish(), Outcome::Stopped));
    assert!(matches!(receiving.finish(), Outcome::Stopped));
}

#[test]
fn a_message_to_oneself_arrives() {
    let [left, _right] = mesh_of_two(4);
    let me = left.peer();
    let mut begun = false;
    let mut server = start(
        with_mesh(left),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            None if !begun => {
                begun = true;
                effects.push(Effect::Post {
                    to: me,
                    message: numbered(1),
                });
            }
            Some(Event::Posted { from, .. }) => {
                assert_eq!(from, me);
                effects.push(Effect::Stopped);
            }
            _ => {}
        }),
    );
    assert!(matches!(server.join(), Outcome::Stopped));
}

#[test]
fn a_panic_of_the_machine_leaves_nothing_in_flight() {
    let folder = Folder::new();
    let journal = JournalDirectory::open(folder.path(), true).expect("a folder of our own");
    let mut server = start(
        DriverConfig {
            journal: Some(journal),
            ..DriverConfig::default()
        },
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Accepted { .. }) => effects.push(Effect::Prepare {
                op: OpId::new(1),
                file: JournalFile::Segment(1),
                bytes: 64 << 20,
            }),
            Some(Event::Received { .. }) => panic!("planted"),
            _ => {}
        }),
    );
    let client = server.connect();
    std::io::Write::write_all(&mut &client, b"x").expect("the server reads");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.join()));
    assert!(panicked.is_err());
    JournalDirectory::open(folder.path(), true).expect("the lock went with the driver");
}

#[test]
fn a_thread_is_pinned_while_it_runs() {
    let cpu = tiderace_io::pin::allowed().expect("every thread has cores")[0];
    let mut begun = false;
    let mut server = start(
        DriverConfig {
            cpu: Some(cpu),
            ..DriverConfig::default()
        },
        Scripted::new(move |_, event, effects: &mut Effects| {
            if event.is_none() && !begun {
                begun = true;
                let allowed = tiderace_io::pin::allowed().expect("every thread has cores");
                assert_eq!(allowed, [cpu]);
                effects.push(Effect::Stopped);
            }
        }),
    );
    match server.join() {
        Outcome::Stopped => {}
        other => panic!("{other:?}"),
    }
    let refused = Driver::new(DriverConfig {
        cpu: Some(100_000),
        ..DriverConfig::default()
    });
    assert!(
        refused
            .expect_err("no machine has that core")
            .to_string()
            .contains("100000")
    );
}
