//! A session at the node, under frames in any order, with any fields, between grants, deliveries, answers, timers and drains
//! in any order. Beside it stands a ledger of additions alone. The phase only moves forward, closed is for good, nobody
//! spends what was not granted in either direction, and no more requests wait than may. P-33 to P-43

use bytes::Bytes;
use compat::samples;
use tiderace_base::ids::MessageId;
use tiderace_base::limits::{LINK_HEADER_BYTES, UNCREDITED_OUTSTANDING_MAX};
use tiderace_base::time::Mono;
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::credit::Amount;
use tiderace_wire::frame::{Control, CreditScope};
use tiderace_wire::link::{Flags, Kind, LinkHeader};
use tiderace_wire::session::{Phase, Request, Server};

use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "server",
    about: "a session at the node, anything in any order: phases, ids, credit of both directions, waiting requests",
    corpus,
    seal: no_seal,
    run,
};

const WINDOW: Amount = Amount {
    bytes: 4096,
    batches: 8,
};

/// What the first byte of a step of an input says; a frame's kind follows, how its fields differ, and its id's distance.
const STEP_BYTES: usize = 5;

fn corpus() -> Vec<Vec<u8>> {
    let kind = |wanted: Kind| {
        let place = Kind::ALL.iter().position(|kind| *kind == wanted);
        place.expect("every kind is listed") as u8
    };
    let frame = |wanted| [0, kind(wanted), 0, 0, 1];
    let hello = frame(Kind::Hello);
    let all: Vec<u8> = Kind::ALL.iter().flat_map(|kind| frame(*kind)).collect();
    let produce = [frame(Kind::Produce), [1, 0, 0, 0, 0], [2, 0, 0, 0, 0]].concat();
    let deliver = [frame(Kind::Credit), [3, 9, 0, 0, 0], [4, 0, 0, 0, 0]].concat();
    vec![
        [&hello[..], &all].concat(),
        [&hello[..], &produce.repeat(6)].concat(),
        [&hello[..], &deliver.repeat(6)].concat(),
        [&hello[..], &frame(Kind::StreamList).repeat(9)].concat(),
        [&hello[..], &[6, 0, 0, 0, 0], &frame(Kind::Goodbye), &all].concat(),
    ]
}

/// A frame of a kind, with some bytes of its control section changed, as it arrives.
pub(super) fn frame(step: &[u8], id: u64, sections: &[(Kind, Vec<u8>)]) -> Option<Frame> {
    let (kind, section) = &sections[usize::from(step[1]) % sections.len()];
    let mut section = section.clone();
    if step[2] > 0 && !section.is_empty() {
        let at = usize::from(step[2]) % section.len();
        section[at] ^= step[3];
    }
    let (shortest, longest) = kind.batch_bounds();
    let batch = shortest.max(64 * usize::from(step[3] % 8)).min(longest);
    let flags = Flags::NONE;
    let header = LinkHeader::new(*kind, flags, MessageId::new(id), &section, batch);
    let mut bytes = header.bytes().to_vec();
    bytes.extend_from_slice(&section);
    bytes.resize(bytes.len() + batch, 0);
    let mut assembler = Assembler::new(Receiver::Peer);
    assembler.open();
    assembler.push(Bytes::from(bytes));
    assembler.next_frame().ok().flatten()
}

/// The control section of each kind.
pub(super) fn sections() -> Vec<(Kind, Vec<u8>)> {
    let mut sections: Vec<(Kind, Vec<u8>)> = samples::frames()
        .into_iter()
        .map(|(control, bytes): (Control<'_>, Vec<u8>)| {
            let batches = samples::batches_behind(&control).len();
            let section = bytes[LINK_HEADER_BYTES..bytes.len() - batches].to_vec();
            (control.kind(), section)
        })
        .collect();
    sections.sort_by_key(|(kind, _)| Kind::ALL.iter().position(|other| other == kind));
    sections
}

fn rank(phase: Phase) -> usize {
    match phase {
        Phase::Handshake => 0,
        Phase::Open => 1,
        Phase::Draining => 2,
        Phase::Closed => 3,
    }
}

/// Additions alone.
#[derive(Default)]
struct Ledger {
    spent: Amount,
    returned: Amount,
    held: Vec<u64>,
    granted_to_node: Option<Amount>,
    delivered: Amount,
}

impl Ledger {
    fn add(total: &mut Amount, amount: Amount) {
        *total = total.checked_add(amount).expect("few and small");
    }
}

thread_local! {
    static SECTIONS: Vec<(Kind, Vec<u8>)> = sections();
}

fn run(input: &[u8]) -> Taken {
    SECTIONS.with(|sections| run_with(input, sections))
}

fn run_with(input: &[u8], sections: &[(Kind, Vec<u8>)]) -> Taken {
    let mut server = Server::new(Mono::from_ns(0), WINDOW);
    let mut ledger = Ledger::default();
    let mut granted = WINDOW;
    let mut id = 0_u64;
    let mut taken = 0;
    for step in input.chunks_exact(STEP_BYTES).take(256) {
        let before = server.phase();
        match step[0] % 8 {
            0 => {
                id = id.saturating_add(u64::from(step[4]));
                let Some(frame) = frame(step, id, sections) else {
                    continue;
                };
                let kind = frame.front.header.kind();
                let batch_bytes = frame.front.header.batch_len() as u64;
                let spent_before = server.link().spent();
                let received = server.receive(&frame.front);
                let is_paid = server.link().spent() != spent_before;
                if is_paid {
                    assert_eq!(kind, Kind::Produce, "only batches cost");
                    Ledger::add(&mut ledger.spent, Amount::batch(batch_bytes));
                }
                match received {
                    Ok(request) => {
                        assert!(before != Phase::Closed, "closed is for good");
                        taken += 1;
                        if let Request::Credit(credit) = &request
                            && credit.scope == CreditScope::Link
                        {
                            let total = Amount {
                                bytes: credit.bytes_total,
                                batches: credit.batches_total,
                            };
                            let so_far = ledger.granted_to_node.unwrap_or(ledger.delivered);
                            ledger.granted_to_node = Some(so_far.max(total));
                        }
                        if kind == Kind::Produce {
                            ledger.held.push(batch_bytes);
                        }
                    }
                    Err(fault) => {
                        assert_eq!(
                            fault.is_fatal,
                            server.phase() == Phase::Closed || before == Phase::Closed
                        );
                        if is_paid && server.link().outstanding() != outstanding(&ledger) {
                            // Refused while draining: it came back at once.
                            Ledger::add(&mut ledger.returned, Amount::batch(batch_bytes));
                        }
                    }
                }
            }
            1 => {
                if let Some(bytes) = ledger.held.pop() {
                    server.give_back(bytes);
                    Ledger::add(&mut ledger.returned, Amount::batch(bytes));
                }
            }
            2 => {
                if let Some(credit) = server.grant() {
                    let total = Amount {
                        bytes: credit.bytes_total,
                        batches: credit.batches_total,
                    };
                    assert!(total.covers(granted), "P-41: a total never goes down");
                    granted = total;
                }
            }
            3 => {
                let amount = Amount::batch(u64::from(step[1]) * 256);
                let may = server.may_deliver(amount);
                assert_eq!(server.try_deliver(amount), may);
                if may {
                    Ledger::add(&mut ledger.delivered, amount);
                    if let Some(granted) = ledger.granted_to_node {
                        assert!(granted.covers(ledger.delivered), "P-43: what was granted");
                    }
                }
            }
            4 => {
                if server.outstanding() > 0 {
                    server.answered();
                }
            }
            5 => {
                let _ = server.timer(Mono::from_ns(u64::from(step[1]) << 32));
            }
            6 => {
                server.drain();
            }
            _ => server.set_window(Amount {
                bytes: u64::from(step[1]) * 64,
                batches: u64::from(step[2]),
            }),
        }
        assert!(rank(server.phase()) >= rank(before), "no way back");
        assert!(server.outstanding() <= UNCREDITED_OUTSTANDING_MAX);
        assert_eq!(server.link().spent(), ledger.spent);
        assert_eq!(server.link().outstanding(), outstanding(&ledger));
        assert!(server.link().granted().covers(ledger.spent));
    }
    Taken::from(taken > 1)
}

fn outstanding(ledger: &Ledger) -> Amount {
    let outstanding = ledger.spent.checked_sub(ledger.returned);
    outstanding.expect("only what was spent comes back")
}
