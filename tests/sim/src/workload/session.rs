//! One connection of a client: the handshake, frames in and out, message ids in both directions and the link's credit.
//! Checks whatever it can about what the node says and reports what must not be. Knows no streams.

use bytes::{Buf, Bytes, BytesMut};
use tiderace_base::ids::MessageId;
use tiderace_base::limits::{
    LINK_HEADER_BYTES, LINK_WINDOW_BATCHES, LINK_WINDOW_BYTES, PRODUCER_WINDOW,
};
use tiderace_wire::frame::{Control, Credit as CreditFrame, CreditScope, Hello, Pong, Welcome};
use tiderace_wire::link::{Direction, Kind, LINK_VERSION, LinkHeader};

use crate::history::{Credit, Ledger, Observation, Scope};
use crate::world::{LinkId, MachineId, Port};

/// A frame that arrived and concerns the session's owner.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) kind: Kind,
    pub(super) control: Bytes,
    pub(super) batches: Bytes,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) link: LinkId,
    pub(super) machine: MachineId,
    pub(super) welcome: Option<Welcome>,
    pub(super) heard_ns: u64,
    /// The node begins nothing new.
    pub(super) draining: bool,
    /// The owner has forgotten some of its questions: answers to them are no surprise.
    pub(super) ignores_strangers: bool,
    input: BytesMut,
    last_heard: u64,
    last_sent: u64,
    granted: Credit,
    spent: Credit,
    broken: bool,
}

impl Session {
    /// A connection was made: says hello.
    pub(super) fn open(link: LinkId, machine: MachineId, name: &str, port: &mut Port<'_>) -> Self {
        let mut session = Self {
            link,
            machine,
            welcome: None,
            heard_ns: port.now_ns,
            draining: false,
            ignores_strangers: false,
            input: BytesMut::new(),
            last_heard: 0,
            last_sent: 0,
            granted: Credit::default(),
            spent: Credit::default(),
            broken: false,
        };
        let hello = Hello {
            version_min: 1,
            version_max: LINK_VERSION,
            features: 0,
            client_id: port.prng.next_u128(),
            name: name.to_owned(),
        };
        session.send(port, |out, id| hello.encode(out, id));
        session
    }

    /// The next message id.
    pub(super) fn next_id(&mut self) -> MessageId {
        self.last_sent += 1;
        MessageId::new(self.last_sent)
    }

    /// Sends a frame; its message id.
    pub(super) fn send(
        &mut self,
        port: &mut Port<'_>,
        encode: impl FnOnce(&mut BytesMut, MessageId),
    ) -> MessageId {
        let id = self.next_id();
        let mut out = BytesMut::new();
        encode(&mut out, id);
        port.send(self.link, out.freeze());
        id
    }

    /// Whether the handshake is done.
    pub(super) fn is_open(&self) -> bool {
        self.welcome.is_some() && !self.broken
    }

    /// Spends link credit for a batch, if there is enough.
    pub(super) fn try_spend(&mut self, bytes: usize, port: &mut Port<'_>) -> bool {
        let next = Credit {
            bytes: self.spent.bytes + bytes as u64,
            batches: self.spent.batches + 1,
        };
        if next.bytes > self.granted.bytes || next.batches > self.granted.batches {
            return false;
        }
        self.spent = next;
        port.observe(Observation::Spent {
            ledger: self.ledger(),
            total: next,
        });
        true
    }

    /// Everything that was sent has been answered a while ago: reports that the credit must be back.
    pub(super) fn settle(&self, port: &mut Port<'_>) {
        port.observe(Observation::Settled {
            ledger: self.ledger(),
            least: Credit {
                bytes: LINK_WINDOW_BYTES / 2,
                batches: u64::from(LINK_WINDOW_BATCHES) / 2,
            },
        });
    }

    fn ledger(&self) -> Ledger {
        Ledger {
            link: self.link.0,
            scope: Scope::Produce,
        }
    }

    /// Takes what arrived.
    pub(super) fn push(&mut self, data: &Bytes, now_ns: u64) {
        self.heard_ns = now_ns;
        self.input.extend_from_slice(data);
    }

    /// The next frame that is not the session's own business.
    pub(super) fn next(&mut self, port: &mut Port<'_>) -> Option<Arrived> {
        while !self.broken {
            let front = self.input.first_chunk::<LINK_HEADER_BYTES>()?;
            let header = match LinkHeader::parse(front) {
                Ok(header) => header,
                Err(code) => {
                    self.complain(port, format!("a link header is refused: {code:?}"));
                    return None;
                }
            };
            if self.input.len() < header.frame_len() {
                return None;
            }
            self.input.advance(LINK_HEADER_BYTES);
            let control = self.input.split_to(header.control_len()).freeze();
            let batches = self.input.split_to(header.batch_len()).freeze();
            if let Err(code) = header.check_control(&control) {
                self.complain(port, format!("a control section is refused: {code:?}"));
                return None;
            }
            if let Some(arrived) = self.accept(&header, control, batches, port) {
                return Some(arrived);
            }
        }
        None
    }

    fn accept(
        &mut self,
        header: &LinkHeader,
        control: Bytes,
        batches: Bytes,
        port: &mut Port<'_>,
    ) -> Option<Arrived> {
        let kind = header.kind();
        let id = header.message_id().get();
        if id <= self.last_heard {
            self.complain(
                port,
                format!("{kind:?} has message id {id} after {}", self.last_heard),
            );
            return None;
        }
        self.last_heard = id;
        if !matches!(kind.direction(), Direction::ToClient | Direction::Both) {
            self.complain(port, format!("{kind:?} is not for clients"));
            return None;
        }
        let decoded = match Control::decode(kind, &control) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.complain(port, format!("{kind:?} is malformed: {error:?}"));
                return None;
            }
        };
        if self.welcome.is_none() && !matches!(kind, Kind::Welcome | Kind::Error | Kind::Goodbye) {
            self.complain(port, format!("{kind:?} comes before the welcome"));
            return None;
        }
        match decoded {
            Control::Welcome(welcome) => {
                if self.welcome.is_some() || welcome.producer_window as usize != PRODUCER_WINDOW {
                    self.complain(port, format!("a welcome that may not be: {welcome:?}"));
                    return None;
                }
                port.observe(Observation::LedgerOpened {
                    ledger: self.ledger(),
                    window: Credit {
                        bytes: LINK_WINDOW_BYTES,
                        batches: u64::from(LINK_WINDOW_BATCHES),
                    },
                });
                self.granted_to(welcome.bytes_total, welcome.batches_total, port);
                self.welcome = Some(welcome);
            }
            Control::Credit(CreditFrame {
                scope,
                id,
                bytes_total,
                batches_total,
            }) => {
                if scope == CreditScope::Link && id == 0 {
                    self.granted_to(bytes_total, batches_total, port);
                } else if scope == CreditScope::Subscription {
                    self.complain(port, format!("the node grants credit to subscription {id}"));
                }
                return None;
            }
            Control::Ping(ping) => {
                self.send(port, |out, id| Pong { nonce: ping.nonce }.encode(out, id));
                return None;
            }
            Control::Pong(_) => return None,
            Control::Goodbye(_) => self.draining = true,
            _ => {}
        }
        Some(Arrived {
            kind,
            control,
            batches,
        })
    }

    fn granted_to(&mut self, bytes: u64, batches: u64, port: &mut Port<'_>) {
        let total = Credit { bytes, batches };
        port.observe(Observation::Granted {
            ledger: self.ledger(),
            total,
        });
        self.granted.bytes = self.granted.bytes.max(bytes);
        self.granted.batches = self.granted.batches.max(batches);
    }

    /// Reports what must not be. Nothing of this connection is believed any more.
    pub(super) fn complain(&mut self, port: &mut Port<'_>, what: String) {
        self.broken = true;
        port.observe(Observation::ProtocolBroken { what });
    }
}
