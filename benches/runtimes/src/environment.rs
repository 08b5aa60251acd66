//! Where a comparison ran: the processor, the kernel, the file system, the limits that matter; and what a process used.
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
    /// Memory that may be locked, as the kernel says it, in bytes or `unlimited`.
    pub(crate) memlock: String,
    /// Threads that wanted to run, on average over the last minute before the first round.
    pub(crate) load_1m: Option<f64>,
    /// Type and device of the file system that was written to.
    pub(crate) file_system: String,
    /// Whether it was built with optimisation. Without it no figure means anything.
    pub(crate) optimised: bool,
}

impl Environment {
    /// Reads it. `data` is the directory that the servers write to.
    pub(crate) fn read(data: &Path) -> Self {
        let unknown = || "unknown".to_owned();
        let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = read_to_string("/proc/meminfo").unwrap_or_default();
        let limits = read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            cpu: field(&cpu, "model name").map_or_else(unknown, str::to_owned),
            cores: tiderace_io::pin::allowed().unwrap_or_default(),
            kernel: read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            memory_kib: field(&memory, "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .unwrap_or(0),
            memlock: field(&limits, "Max locked memory")
                .and_then(|text| text.split_whitespace().next())
                .map_or_else(unknown, str::to_owned),
            load_1m: load_1m(),
            file_system: file_system(data).unwrap_or_else(unknown),
            optimised: !cfg!(debug_assertions),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}; {} cores; Linux {}; {} GiB; {}; memlock {}; load {:.1} before{}",
            self.cpu,
            self.cores.len(),
            self.kernel,
            self.memory_kib >> 20,
            self.file_system,
            self.memlock,
            self.load_1m.unwrap_or(f64::NAN),
            if self.optimised {
                ""
            } else {
                "; BUILT WITHOUT OPTIMISATION"
            }
        )
    }

    /// Whether other work shared the machine before we began: more than a tenth of its cores was busy.
    pub(crate) fn was_busy(&self) -> bool {
        self.load_1m
            .is_some_and(|load| load > 0.1 + 0.1 * self.cores.len() as f64)
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']))
}

fn load_1m() -> Option<f64> {
    let text = read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// The mount that a path lies on: the longest mount point that is a prefix of it.
fn file_system(path: &Path) -> Option<String> {
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

/// Seconds of processor time, user and kernel, of all threads of a process. `None` when there is no such process.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything; what follows is numbers. Ticks are 10 ms on every Linux that we
    // know: the kernel's ABI has fixed USER_HZ to 100.
    let mut words = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: f64 = words.next()?.parse().ok()?;
    let system: f64 = words.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// Seconds that the calling thread has run so far. `None` where the kernel does not say.
pub(crate) fn thread_cpu_seconds() -> Option<f64> {
    let text = read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns: f64 = text.split(' ').next()?.parse().ok()?;
    Some(ns / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_this_process_can_be_read() {
        let environment = Environment::read(Path::new("/"));
        assert!(!environment.cores.is_empty());
        assert!(environment.kernel.contains('.'));
        assert!(environment.memory_kib > 0);
        assert!(environment.line().contains("cores"));
        assert!(cpu_seconds(std::process::id()).is_some());
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}
