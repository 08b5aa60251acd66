//! How the node is, as everyone outside sees it: where it stands in its life and what its shards count. Written by the
//! threads that know, read by the admin port; never waited for.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where a node stands in its life. Only moves down this list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Its journals are being read.
    Recovering,
    /// Its threads run.
    Running,
    /// It was asked to stop and finishes what it promised.
    Draining,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Recovering, Self::Running, Self::Draining];
}

/// One number with its name, its help, and what it belongs to.
pub(crate) type Take<'a> = dyn FnMut(&'static str, &'static str, u64) + 'a;

/// Where a thread's numbers come from.
pub(crate) type Source = Box<dyn Fn(&mut Take<'_>) + Send + Sync>;

/// What one thread counts, under a family's name.
pub(crate) struct Counted {
    /// Such as `shard`.
    pub(crate) family: &'static str,
    /// Which of them, such as `0`.
    pub(crate) label: String,
    /// Its numbers. A name that ends in `_total` is a counter, any other a gauge.
    pub(crate) source: Source,
    /// Whether it serves; `None` for a thread that serves nobody.
    pub(crate) serves: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

/// All values of one name: the name, its help, and each thread's label with its value.
type Named = (String, &'static str, Vec<(String, u64)>);

/// The health of one node.
#[derive(Default)]
pub(crate) struct Health {
    phase: AtomicU8,
    counted: OnceLock<Vec<Counted>>,
}

impl Health {
    pub(crate) fn phase(&self) -> Phase {
        let raw = usize::from(self.phase.load(Ordering::Acquire));
        Phase::ALL[raw.min(Phase::ALL.len() - 1)]
    }

    /// Moves on to `phase`. False: it was there, or further, already.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel) < phase as u8
    }

    /// Says what is counted. Once, when the threads exist.
    pub(crate) fn attach(&self, counted: Vec<Counted>) {
        assert!(
            self.counted.set(counted).is_ok(),
            "a node's threads are made once"
        );
    }

    fn counted(&self) -> &[Counted] {
        self.counted.get().map_or(&[], Vec::as_slice)
    }

    /// Why the node is not ready; `None` when every shard serves.
    pub(crate) fn unready(&self) -> Option<String> {
        match self.phase() {
            Phase::Recovering => Some("recovering".to_owned()),
            Phase::Draining => Some("draining".to_owned()),
            Phase::Running => {
                let idle =
                    |counted: &&Counted| counted.serves.as_ref().is_some_and(|serves| !serves());
                let waiting: Vec<&str> = self
                    .counted()
                    .iter()
                    .filter(idle)
                    .map(|counted| counted.label.as_str())
                    .collect();
                let is_counted = self.counted().iter().any(|it| it.family == "control");
                if !waiting.is_empty() && is_counted && self.sum("control", "has_leader") == 0 {
                    return Some(format!(
                        "waiting for the zone: nobody leads it that this node hears, and it is linked to {} nodes",
                        self.sum("control", "links")
                    ));
                }
                (!waiting.is_empty()).then(|| format!("waiting for shard {}", waiting.join(", ")))
            }
        }
    }

    /// Whether a shard refuses appends because its disk is full.
    pub(crate) fn is_read_only(&self) -> bool {
        self.sum("shard", "read_only") > 0
    }

    /// Damaged places of the journals that nothing on this node can replace.
    pub(crate) fn damaged(&self) -> u64 {
        self.sum("shard", "journal_damaged") + self.sum("control", "damage_found_total")
    }

    /// A number of one family, summed over its threads.
    pub(crate) fn sum(&self, family: &str, wanted: &str) -> u64 {
        let mut sum = 0_u64;
        for counted in self
            .counted()
            .iter()
            .filter(|counted| counted.family == family)
        {
            (counted.source)(&mut |name, _, value| {
                if name == wanted {
                    sum = sum.saturating_add(value);
                }
            });
        }
        sum
    }

    /// Everything that is counted, as Prometheus reads it.
    pub(crate) fn metrics(&self) -> String {
        let mut page = String::with_capacity(16 * 1024);
        let is_ready = u64::from(self.unready().is_none());
        let gauge = |page: &mut String, name: &str, help: &str, value: u64| {
            head(page, name, help);
            say(page, format_args!("{name} {value}"));
        };
        head(&mut page, "tiderace_build_info", "The program; always 1.");
        say(
            &mut page,
            format_args!(
                "tiderace_build_info{{version=\"{}\"}} 1",
                env!("CARGO_PKG_VERSION")
            ),
        );
        gauge(
            &mut page,
            "tiderace_ready",
            "One while every shard serves.",
            is_ready,
        );
        if let Some(bytes) = resident_bytes() {
            gauge(
                &mut page,
                "tiderace_process_resident_bytes",
                "Memory of the process in RAM.",
                bytes,
            );
        }
        // All values of one name stand together: collect by name, in the order of the first thread that has it.
        let mut names: Vec<Named> = Vec::new();
        for counted in self.counted() {
            (counted.source)(&mut |name, help, value| {
                let name = format!("tiderace_{}_{name}", counted.family);
                let row = (format!("{}=\"{}\"", counted.family, counted.label), value);
                match names.iter_mut().find(|(known, ..)| *known == name) {
                    Some((.., rows)) => rows.push(row),
                    None => names.push((name, help, vec![row])),
                }
            });
        }
        for (name, help, rows) in names {
            head(&mut page, &name, help);
            for (label, value) in rows {
                say(&mut page, format_args!("{name}{{{label}}} {value}"));
            }
        }
        page
    }
}

fn head(page: &mut String, name: &str, help: &str) {
    let kind = if name.ends_with("_total") {
        "counter"
    } else {
        "gauge"
    };
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    say(
        page,
        format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"),
    );
}

fn say(page: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(page, "{line}").expect("a string takes everything");
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn shard(label: &str, serves: &Arc<AtomicBool>) -> Counted {
        let serves = Arc::clone(serves);
        Counted {
            family: "shard",
            label: label.to_owned(),
            source: Box::new(|take| {
                take("acks_total", "Acknowledgements.", 7);
                take("connections", "Open \\ now.", 2);
            }),
            serves: Some(Box::new(move || serves.load(Ordering::Relaxed))),
        }
    }

    #[test]
    fn a_node_is_ready_only_while_every_shard_serves() {
        let health = Health::default();
        assert_eq!(health.unready().as_deref(), Some("recovering"));
        let (first, second) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicBool::new(false)),
        );
        health.attach(vec![shard("0", &first), shard("1", &second)]);
        assert!(health.enter(Phase::Running));
        assert_eq!(health.unready().as_deref(), Some("waiting for shard 1"));
        second.store(true, Ordering::Relaxed);
        assert_eq!(health.unready(), None);
        assert!(
            health.enter(Phase::Draining)
                && !health.enter(Phase::Draining)
                && !health.enter(Phase::Running)
        );
        assert_eq!(health.unready().as_deref(), Some("draining"));
    }

    #[test]
    fn metrics_are_prometheus_text_with_each_name_once() {
        let health = Health::default();
        let serves = Arc::new(AtomicBool::new(true));
        health.attach(vec![shard("0", &serves), shard("1", &serves)]);
        health.enter(Phase::Running);
        let page = health.metrics();
        assert_eq!(
            (
                health.sum("shard", "acks_total"),
                health.sum("driver", "acks_total")
            ),
            (14, 0)
        );
        assert!(page.contains("tiderace_ready 1\n"), "{page}");
        assert!(page.ends_with(
            "# HELP tiderace_shard_acks_total Acknowledgements.\n# TYPE tiderace_shard_acks_total counter\n\
             tiderace_shard_acks_total{shard=\"0\"} 7\ntiderace_shard_acks_total{shard=\"1\"} 7\n\
             # HELP tiderace_shard_connections Open \\\\ now.\n# TYPE tiderace_shard_connections gauge\n\
             tiderace_shard_connections{shard=\"0\"} 2\ntiderace_shard_connections{shard=\"1\"} 2\n"
        ));
    }
}
