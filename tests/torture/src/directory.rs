//! A node's data directory in memory: every file that a start depends on, by its path below the directory. Read from a disk,
//! changed, and written to another place, where runs of zeros take no room. Images of one node share the files that are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Files that say nothing about events: a start makes them anew.
const IDLE: [&str; 2] = ["lock", "probe"];
/// Zeros are left out in pieces of this.
const PIECE_BYTES: usize = 64 * 1024;

/// The files.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Directory {
    files: BTreeMap<String, Arc<Vec<u8>>>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

impl Directory {
    /// Reads one. What is as it was in `like` takes no memory of its own; what a node that runs removes meanwhile is not there.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn read(at: &Path, like: Option<&Self>) -> Self {
        let mut files = BTreeMap::new();
        for path in integration::files::below(at) {
            let name = path.strip_prefix(at).expect("it is below");
            let name = name.to_str().expect("our names are UTF-8").to_owned();
            if IDLE.iter().any(|idle| path.ends_with(idle)) {
                continue;
            }
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => panic!("{}: {error}", path.display()),
            };
            let known = like.and_then(|like| like.files.get(&name));
            let bytes = match known.filter(|known| ***known == bytes) {
                Some(known) => Arc::clone(known),
                None => Arc::new(bytes),
            };
            files.insert(name, bytes);
        }
        Self { files }
    }

    /// Writes it to a directory that is not there yet.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, to: &Path) {
        for (name, bytes) in &self.files {
            let path = to.join(name);
            let folder = path.parent().expect("it is below");
            fs::create_dir_all(folder).expect("a directory of ours");
            let file = File::create(&path).expect("a file of ours");
            file.set_len(bytes.len() as u64).expect("a length");
            for (piece, at) in bytes.chunks(PIECE_BYTES).zip((0..).step_by(PIECE_BYTES)) {
                if piece.iter().any(|byte| *byte != 0) {
                    file.write_all_at(piece, at).expect("there is room");
                }
            }
        }
    }

    /// A file's bytes.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Vec<u8>>> {
        self.files.get(name)
    }

    /// The names of the files, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The files of one journal, by their names in its folder.
    #[must_use]
    pub fn journal(&self, folder: &str) -> BTreeMap<String, Arc<Vec<u8>>> {
        let files = self.files.iter();
        files
            .filter_map(|(name, bytes)| {
                let name = name.strip_prefix(folder)?.strip_prefix('/')?;
                Some((name.to_owned(), Arc::clone(bytes)))
            })
            .collect()
    }

    /// The names of files that are not the same in both.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.files.keys().chain(other.files.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.files.get(*name) != other.files.get(*name))
            .cloned()
            .collect()
    }

    /// Puts a file there, or takes it away.
    pub fn put(&mut self, name: &str, bytes: Option<Arc<Vec<u8>>>) {
        match bytes {
            Some(bytes) => self.files.insert(name.to_owned(), bytes),
            None => self.files.remove(name),
        };
    }

    /// Changes a file's bytes.
    ///
    /// # Panics
    /// When it is not there.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let bytes = self.files.get_mut(name).expect("it is there");
        change(Arc::make_mut(bytes));
    }
}
