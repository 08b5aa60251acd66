//! A session at the client, under frames of a node that may be another program, in any order and with any fields, between
//! its own requests. The phase only moves forward, closed is for good, it never produces what was not granted, and its
//! waiting requests stay within what the node allowed. P-34, P-40, P-42

use tiderace_base::limits::UNCREDITED_OUTSTANDING_MAX;
use tiderace_wire::credit::Amount;
use tiderace_wire::frame::CreditScope;
use tiderace_wire::link::Kind;
use tiderace_wire::session::{Answer, Client, Phase};

use super::server::{frame, sections};
use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "client",
    about: "a session at the client, anything in any order from the node: phases, credit, waiting requests",
    corpus,
    seal: no_seal,
    run,
};

const STEP_BYTES: usize = 5;

fn corpus() -> Vec<Vec<u8>> {
    let kind = |wanted: Kind| {
        let place = Kind::ALL.iter().position(|kind| *kind == wanted);
        place.expect("every kind is listed") as u8
    };
    let frame = |wanted| [0, kind(wanted), 0, 0, 1];
    let welcome = frame(Kind::Welcome);
    let all: Vec<u8> = Kind::ALL.iter().flat_map(|kind| frame(*kind)).collect();
    let produce = [[1, 0, 4, 0, 0], frame(Kind::Credit), frame(Kind::Produced)].concat();
    let asks = [[2, 0, 0, 0, 0], frame(Kind::StreamListing)].concat();
    vec![
        [&welcome[..], &all].concat(),
        [&welcome[..], &produce.repeat(5)].concat(),
        [&welcome[..], &asks.repeat(5)].concat(),
        [&welcome[..], &frame(Kind::Goodbye), &all].concat(),
        [&welcome[..], &frame(Kind::Error), &all].concat(),
    ]
}

fn rank(phase: Phase) -> usize {
    match phase {
        Phase::Handshake => 0,
        Phase::Open => 1,
        Phase::Draining => 2,
        Phase::Closed => 3,
    }
}

thread_local! {
    static SECTIONS: Vec<(Kind, Vec<u8>)> = sections();
}

fn run(input: &[u8]) -> Taken {
    SECTIONS.with(|sections| run_with(input, sections))
}

fn run_with(input: &[u8], sections: &[(Kind, Vec<u8>)]) -> Taken {
    let mut client = Client::new();
    let mut id = 0_u64;
    let mut granted = Amount::ZERO;
    let mut spent = Amount::ZERO;
    let mut taken = 0;
    for step in input.chunks_exact(STEP_BYTES).take(256) {
        let before = client.phase();
        match step[0] % 4 {
            0 => {
                id = id.saturating_add(u64::from(step[4]));
                let Some(frame) = frame(step, id, sections) else {
                    continue;
                };
                if let Ok(answer) = client.receive(&frame) {
                    assert!(before != Phase::Closed, "closed is for good");
                    taken += 1;
                    match answer {
                        Answer::Welcome(welcome) => {
                            granted = Amount {
                                bytes: welcome.bytes_total,
                                batches: welcome.batches_total,
                            };
                        }
                        Answer::Credit(credit) if credit.scope == CreditScope::Link => {
                            granted = granted.max(Amount {
                                bytes: credit.bytes_total,
                                batches: credit.batches_total,
                            });
                        }
                        _ => {}
                    }
                }
            }
            1 => {
                let amount = Amount::batch(u64::from(step[1]) << (step[2] % 56));
                if client.begin_produce(amount.bytes).is_some() {
                    assert_eq!(before, Phase::Open);
                    spent = spent.checked_add(amount).expect("it was granted");
                    assert!(granted.covers(spent), "P-40: what was granted");
                }
            }
            2 => {
                let waiting = client.waiting();
                if client.begin_request(Kind::StreamList).is_some() {
                    assert_eq!(client.waiting(), waiting + 1);
                }
            }
            _ => {
                let _ = client.next_message_id();
            }
        }
        assert!(rank(client.phase()) >= rank(before), "no way back");
        assert!(client.waiting() <= UNCREDITED_OUTSTANDING_MAX);
        assert_eq!(client.link().spent(), spent);
    }
    Taken::from(taken > 1)
}
