//! What lies in a data directory, byte by byte: to find what was acknowledged, to damage it, and to see that a node which
//! refused it has changed nothing.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tiderace_base::checksum::crc32c;

/// Files that say nothing about events: a start may touch them.
const IDLE: [&str; 2] = ["lock", "probe"];

/// Every file below a folder, in the order of its names.
#[must_use]
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The size and checksum of every file below a folder that events depend on.
#[must_use]
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, (usize, u32)> {
    below(folder)
        .into_iter()
        .filter(|path| IDLE.iter().all(|name| !path.ends_with(name)))
        .map(|path| {
            let bytes = fs::read(&path).expect("a file");
            (path, (bytes.len(), crc32c(&bytes)))
        })
        .collect()
}

/// Bytes of all files below a folder. What a node that runs removes meanwhile has none.
#[must_use]
pub fn size_of(folder: &Path) -> u64 {
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
    below(folder).into_iter().map(size).sum()
}

/// The first place below a folder where these bytes stand.
#[must_use]
pub fn find(folder: &Path, wanted: &[u8]) -> Option<(PathBuf, u64)> {
    let is_start = |bytes: &[u8]| bytes.windows(wanted.len()).position(|part| part == wanted);
    below(folder).into_iter().find_map(|path| {
        let at = is_start(&fs::read(&path).expect("a file"))?;
        Some((path, at as u64))
    })
}

/// Flips a bit; the same again flips it back.
pub fn flip(file: &Path, at: u64) {
    let mut byte = [0];
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .expect("a file");
    file.read_exact_at(&mut byte, at).expect("a byte");
    byte[0] ^= 1;
    file.write_all_at(&byte, at).expect("a byte");
    file.sync_all().expect("a disk");
}
