//! The inputs in the tree: for each target a folder of small files. Some were written by the product's own encoders, the others
//! are inputs that once broke something, and are replayed for ever.

use crate::targets::Target;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where a target's inputs lie.
#[must_use]
pub fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name)
}

/// A target's inputs, each with its file's name, in the order of their names.
///
/// # Errors
/// When the folder or a file cannot be read.
pub fn read(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder(target))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        inputs.push((name.into_owned(), fs::read(&path)?));
    }
    inputs.sort();
    Ok(inputs)
}

/// Writes the samples of the product's own encoders, beside what is there.
///
/// # Errors
/// When a file cannot be written.
pub fn write(target: &Target) -> io::Result<()> {
    let folder = folder(target);
    fs::create_dir_all(&folder)?;
    for (name, bytes) in (target.samples)() {
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
