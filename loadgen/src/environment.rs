//! Where a figure was measured: the processor, the kernel, the file system; and what a thread or a process used of it.
//! Everything is read from `/proc`; what cannot be read is said to be unknown, never guessed.

use serde::Serialize;
use std::fs::read_to_string;
use std::path::Path;

/// The machine.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Environment {
    /// The processor's name.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: Vec<usize>,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Memory, in KiB.
    pub(crate) memory_kib: u64,
    /// Threads that wanted to run, on average over the last minute: a machine that does other things measures those.
    pub(crate) load_1m: Option<f64>,
    /// Type and device of the file system that was written to, where it is known.
    pub(crate) file_system: Option<String>,
    /// The core that takes the interrupts of the disks, where one takes nearly all of them. What completes a durable write
    /// runs there, behind whatever keeps that core busy.
    pub(crate) disk_interrupts_cpu: Option<usize>,
    /// Version of this program.
    pub(crate) version: &'static str,
    /// Whether it was built with optimisation. Without it no figure means anything.
    pub(crate) optimised: bool,
}

impl Environment {
    /// Reads it. `data` is the directory that the server writes to, where it is local and known.
    #[must_use]
    pub(crate) fn read(data: Option<&Path>) -> Self {
        let unknown = || "unknown".to_owned();
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let memory = read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpu: read_to_string("/proc/cpuinfo")
                .ok()
                .and_then(|text| field(&text, "model name"))
                .unwrap_or_else(unknown),
            cores: tiderace_io::pin::allowed().unwrap_or_default(),
            kernel: read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            memory_kib: field(&memory, "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .unwrap_or(0),
            load_1m: read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split(' ').next()?.parse().ok()),
            file_system: data.and_then(file_system),
            disk_interrupts_cpu: read_to_string("/proc/interrupts")
                .ok()
                .and_then(|text| disk_interrupts_cpu(&text)),
            version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
        }
    }

    /// One line for people.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        format!(
            "{}; {} cores; Linux {}; {} GiB; load {:.1}; file system {}{}",
            self.cpu,
            self.cores.len(),
            self.kernel,
            self.memory_kib >> 20,
            self.load_1m.unwrap_or(f64::NAN),
            self.file_system.as_deref().unwrap_or("unknown"),
            if self.optimised {
                ""
            } else {
                "; BUILT WITHOUT OPTIMISATION"
            }
        )
    }
}

impl Environment {
    /// Whether other work shared the machine before we began: more than a tenth of its cores was busy.
    #[must_use]
    pub(crate) fn was_busy(&self) -> bool {
        self.load_1m
            .is_some_and(|load| load > 0.1 + 0.1 * self.cores.len() as f64)
    }
}

/// The servers' core and the generator's, where they are not given: the server is with the disk's interrupts, and the
/// generator, which may spin, is elsewhere.
///
/// # Errors
/// A sentence for people: the kernel does not say which cores may be used.
pub(crate) fn cores(
    server: Option<usize>,
    generator: Option<usize>,
) -> Result<(usize, usize), String> {
    let allowed = tiderace_io::pin::allowed().map_err(|error| error.to_string())?;
    let interrupts = read_to_string("/proc/interrupts").unwrap_or_default();
    let preferred = disk_interrupts_cpu(&interrupts).filter(|cpu| allowed.contains(cpu));
    let other_than = |taken: usize| allowed.iter().rev().copied().find(|cpu| *cpu != taken);
    let first = allowed.first().copied().unwrap_or(0);
    let server = match (server, generator) {
        (Some(server), _) => server,
        (None, Some(generator)) => other_than(generator).unwrap_or(first),
        (None, None) => preferred.unwrap_or(first),
    };
    let generator = generator.or_else(|| other_than(server)).unwrap_or(server);
    Ok((server, generator))
}

/// Reads `/proc/interrupts`: the core with at least nine in ten of the disks' interrupts.
fn disk_interrupts_cpu(text: &str) -> Option<usize> {
    let mut lines = text.lines();
    let cpus: Vec<usize> = lines
        .next()?
        .split_whitespace()
        .filter_map(|name| name.strip_prefix("CPU")?.parse().ok())
        .collect();
    let mut counts = vec![0_u64; cpus.len()];
    for line in lines {
        let name = line.split_whitespace().last().unwrap_or_default();
        let is_disk = (name.starts_with("virtio") && name.contains("-req"))
            || ["nvme", "ahci", "megasas", "mpt", "aacraid", "hpsa"]
                .iter()
                .any(|driver| name.starts_with(driver));
        if !is_disk {
            continue;
        }
        let fields = line.split_whitespace().skip(1);
        for (count, field) in counts.iter_mut().zip(fields) {
            *count += field.parse::<u64>().unwrap_or(0);
        }
    }
    let total: u64 = counts.iter().sum();
    let most = counts.iter().zip(&cpus).max_by_key(|(count, _)| **count)?;
    (*most.0 > 0 && most.0 * 10 >= total * 9).then_some(*most.1)
}

/// The mount that a path lies on: the longest mount point that is a prefix of it.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = read_to_string("/proc/self/mounts").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
            path.starts_with(point)
                .then(|| (point.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, text)| text)
}

/// Nanoseconds that the calling thread has run so far. `None` where the kernel does not say.
#[must_use]
pub(crate) fn thread_cpu_ns() -> Option<u64> {
    let text = read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// What a process has used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Usage {
    /// Processor time, user and kernel, of all its threads, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// The most memory that was resident at once, in KiB.
    pub(crate) peak_rss_kib: u64,
    /// What is resident now, in KiB.
    pub(crate) rss_kib: u64,
}

impl Usage {
    /// Of a process of this machine. `None` when there is no such process.
    #[must_use]
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold anything; what follows is numbers. Ticks are 10 ms on every Linux
        // that we know: the kernel's ABI has fixed USER_HZ to 100.
        let mut words = stat.rsplit_once(") ")?.1.split(' ').skip(11);
        let user: u64 = words.next()?.parse().ok()?;
        let system: u64 = words.next()?.parse().ok()?;
        let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kib = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.trim().split(' ').next()?.parse().ok())
                .unwrap_or(0)
        };
        Some(Self {
            cpu_ns: (user + system) * 10_000_000,
            peak_rss_kib: kib("VmHWM:"),
            rss_kib: kib("VmRSS:"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_with_the_disks_interrupts_is_found_where_there_is_one() {
        let head = "           CPU0       CPU2\n";
        let of = |rows: &str| disk_interrupts_cpu(&format!("{head}{rows}"));
        assert_eq!(
            of(" 36:  0  118  PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n"),
            Some(2)
        );
        assert_eq!(
            of(" 36:  50  50  PCI-MSIX-0000:00:02.0  1-edge  nvme0q1\n"),
            None
        );
        assert_eq!(
            of(" 36:  50  0  PCI-MSIX-0000:00:02.0  1-edge  virtio3-rx\n"),
            None
        );
        assert_eq!(
            of(" 36:  95  5  PCI  1-edge  nvme0q1\nNMI:  0  9000  Non-maskable interrupts\n"),
            Some(0)
        );
        assert_eq!(disk_interrupts_cpu(""), None);
    }

    #[test]
    fn given_cores_are_kept_and_the_others_differ() {
        assert_eq!(cores(Some(3), Some(3)), Ok((3, 3)));
        let allowed = tiderace_io::pin::allowed().expect("the kernel says");
        if allowed.len() > 1 {
            for given in [
                (None, None),
                (Some(allowed[0]), None),
                (None, Some(allowed[0])),
            ] {
                let (server, generator) = cores(given.0, given.1).expect("the kernel says");
                assert_ne!(server, generator);
            }
        }
    }

    #[test]
    fn this_machine_and_this_process_can_be_read() {
        let environment = Environment::read(Some(Path::new("/tmp")));
        assert!(!environment.cores.is_empty());
        assert!(environment.kernel.contains('.'));
        assert!(environment.memory_kib > 0);
        assert!(environment.file_system.is_some());
        assert!(environment.line().contains("cores"));
        let usage = Usage::of(std::process::id()).expect("we run");
        assert!(usage.rss_kib > 0 && usage.peak_rss_kib >= usage.rss_kib);
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
