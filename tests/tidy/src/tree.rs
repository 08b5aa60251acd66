//! The files that are looked at, as plain values. A tree comes from the repository or from a test's own text; no checker
//! can tell the difference. Invariant: sorted by path, so that findings come in the same order everywhere.

use std::fmt;
use std::path::Path;
use std::process::Command;

/// One file. A file that is not UTF-8 has a size and no text.
#[derive(Clone, Debug)]
pub struct File {
    /// From the root of the repository, with `/` between components.
    pub path: String,
    /// Size on disk.
    pub size_bytes: u64,
    /// Empty for a file that is not UTF-8.
    pub text: String,
}

impl File {
    /// Is this Rust source?
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The folders above the file.
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The path's last component.
    pub fn name(&self) -> &str {
        self.path
            .rsplit_once('/')
            .map_or(&self.path, |(_, name)| name)
    }
}

/// The files of a repository.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: Vec<File>,
}

impl Tree {
    /// A tree of texts, for showing that a checker finds what it is for.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| File {
                path: (*path).to_owned(),
                size_bytes: text.len() as u64,
                text: (*text).to_owned(),
            })
            .collect();
        Self::sorted(files)
    }

    /// What the repository at `root` holds or would hold after `git add`: the working text of tracked and of new files.
    ///
    /// # Panics
    ///
    /// If git cannot list the files: a check that silently looked at nothing would always pass.
    pub fn of_repository(root: &Path) -> Self {
        let listing = Command::new("git")
            .arg("-C")
            .arg(root)
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .output()
            .expect("git is needed to know which files belong to the repository: install it");
        assert!(
            listing.status.success(),
            "git ls-files failed: run this from a clone, not from an unpacked archive\n{}",
            String::from_utf8_lossy(&listing.stderr)
        );
        let files = String::from_utf8(listing.stdout)
            .expect("a path is not UTF-8: rename it, other systems cannot check it out")
            .split_terminator('\0')
            // Deleted in the working tree and not yet in the index: nothing to look at. A symbolic link is its target.
            .filter_map(|path| {
                let metadata = std::fs::symlink_metadata(root.join(path)).ok()?;
                if !metadata.is_file() {
                    return None;
                }
                let bytes = std::fs::read(root.join(path)).ok()?;
                Some(File {
                    path: path.to_owned(),
                    size_bytes: metadata.len(),
                    text: String::from_utf8(bytes).unwrap_or_default(),
                })
            })
            .collect();
        Self::sorted(files)
    }

    fn sorted(mut files: Vec<File>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Self { files }
    }

    /// All files, by path.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// The Rust sources, by path.
    pub fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// The file at exactly this path.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .ok()
            .map(|index| &self.files[index])
    }
}

/// What is wrong, where, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: String,
    /// Counted from one; zero when the finding is about the file as a whole.
    pub line: usize,
    /// What is wrong and the better way, in one sentence or two.
    pub message: String,
}

impl Finding {
    /// A finding about a line.
    pub fn at(file: &File, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: file.path.clone(),
            line,
            message: message.into(),
        }
    }

    /// A finding about a file.
    pub fn about(file: &File, message: impl Into<String>) -> Self {
        Self::at(file, 0, message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}
