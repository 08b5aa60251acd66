//! A directory of one test's own, on the disk that cargo builds on: a real one more often than `/tmp`, which may be memory.
//! Removed when the test has passed, kept and named when it has not.

use crate::program;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The directory.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty directory whose name begins with `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = program::profile_folder()
            .join("integration")
            .join(format!("{name}-{}-{number}", std::process::id()));
        // Somebody with this process's id may have failed here before.
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).expect("a directory beside the tests");
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.path.display());
        } else {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}
