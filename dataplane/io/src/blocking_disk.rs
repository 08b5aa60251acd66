//! A journal's directory as recovery sees it: the blocking port, used before a shard serves. The same files with the same
//! flags as the driver's, so that what recovery proves holds for what the driver does. Buffers of any alignment are
//! welcome and bounce through an aligned one; a sync that failed is reported once and never tried again here.

use crate::directory::{JournalDirectory, SECTOR_BYTES, disk_error, file_name, open_error, zeros};
use crate::syscall::{check, open_at, uninterrupted, unlink_at};
use bytes::BytesMut;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use tiderace_base::collections::Map;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::limits::{BLOCK_BYTES, MIB};
use tiderace_base::region::aligned_zeroed;
#[cfg(feature = "disk-recording")]
use {crate::recording::Operation, bytes::Bytes};

/// Runs a step that changes something. A build that records notes it and its end; in any other it is the step alone.
macro_rules! noted {
    ($disk:expr, $operation:expr, $step:expr) => {{
        #[cfg(feature = "disk-recording")]
        let result = match $disk.directory.recorder().cloned() {
            Some(recorder) => recorder.blocking($operation, || $step),
            None => $step,
        };
        #[cfg(not(feature = "disk-recording"))]
        let result = $step;
        result
    }};
}

/// Bytes moved by one syscall.
const PIECE_BYTES: usize = MIB;
/// Files kept open. Recovery walks segments in order, so few are ever wanted again.
/// Fewer than any driver may have open.
const FILES_OPEN_MAX: usize = 16;

/// The blocking port of one journal's directory.
#[derive(Debug)]
pub struct BlockingDisk {
    directory: JournalDirectory,
    open: Map<JournalFile, File>,
    bounce: BytesMut,
}

impl BlockingDisk {
    /// Works on the files of `directory`, which stays locked as long as this lives.
    #[must_use]
    pub fn new(directory: &JournalDirectory) -> Self {
        Self {
            directory: directory.clone(),
            open: Map::default(),
            bounce: aligned_zeroed(PIECE_BYTES),
        }
    }

    fn file(&mut self, file: JournalFile) -> Result<&File, DiskError> {
        if !self.open.contains_key(&file) {
            let opened = self.open_file(file, 0)?;
            self.keep_open(file, opened);
        }
        Ok(&self.open[&file])
    }

    fn open_file(&self, file: JournalFile, more_flags: libc::c_int) -> Result<File, DiskError> {
        let flags = self.directory.open_flags() | more_flags;
        open_at(self.directory.fd(), &file_name(file), flags)
            .map(File::from)
            .map_err(|error| open_error(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    fn keep_open(&mut self, file: JournalFile, opened: File) {
        if self.open.len() >= FILES_OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(file, opened);
    }

    /// Makes the directory's entries durable.
    fn sync_directory(&self) -> Result<(), DiskError> {
        // SAFETY: takes no pointer.
        let synced = || check(unsafe { libc::fsync(self.directory.fd()) });
        noted!(
            self,
            Operation::SyncDirectory,
            synced().map(drop).map_err(|error| told(&error))
        )
    }

    fn remove_entry(&self, file: JournalFile) -> Result<(), DiskError> {
        noted!(
            self,
            Operation::Unlink { file },
            unlink_at(self.directory.fd(), &file_name(file)).map_err(|error| told(&error))
        )
    }

    fn write_blocks(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let opened = &self.open[&file];
        if bytes.as_ptr().align_offset(BLOCK_BYTES) == 0 || !self.directory.direct_io() {
            return write_all(opened, at, bytes);
        }
        for (index, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let aligned = &mut self.bounce[..piece.len()];
            aligned.copy_from_slice(piece);
            write_all(opened, at + (index * PIECE_BYTES) as u64, aligned)?;
        }
        Ok(())
    }

    fn fill_with_zeros(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let created = noted!(
            self,
            Operation::Create { file },
            self.open_file(file, libc::O_CREAT | libc::O_TRUNC)
        )?;
        let piece = zeros(PIECE_BYTES);
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(PIECE_BYTES as u64) as usize;
            noted!(
                self,
                Operation::Zero {
                    file,
                    at,
                    bytes: len as u64
                },
                write_all(&created, at, &piece[..len])
            )?;
            at += len as u64;
        }
        noted!(self, Operation::Sync { file }, sync(&created))?;
        self.keep_open(file, created);
        self.sync_directory()
    }
}

impl Disk for BlockingDisk {
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.directory.path()).map_err(|error| told(&error))? {
            let entry = entry.map_err(|error| told(&error))?;
            files.extend(entry.file_name().to_str().and_then(JournalFile::from_name));
        }
        files.sort_unstable();
        Ok(files)
    }

    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError> {
        let metadata = self.file(file)?.metadata().map_err(|error| told(&error))?;
        Ok(metadata.len())
    }

    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.file(file)?;
        let opened = &self.open[&file];
        if !self.directory.direct_io() {
            return read_exact(opened, at, into);
        }
        let mut done = 0;
        while done < into.len() {
            let from = at + done as u64;
            let skip = (from % BLOCK_BYTES as u64) as usize;
            let wanted = (into.len() - done).min(PIECE_BYTES - skip);
            let covered = (skip + wanted).next_multiple_of(BLOCK_BYTES);
            let got = read_up_to(opened, from - skip as u64, &mut self.bounce[..covered])?;
            if got < skip + wanted {
                return Err(DiskError::Short);
            }
            into[done..done + wanted].copy_from_slice(&self.bounce[skip..skip + wanted]);
            done += wanted;
        }
        Ok(())
    }

    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        assert!(
            at.is_multiple_of(BLOCK_BYTES as u64) && bytes.len().is_multiple_of(BLOCK_BYTES),
            "a journal is written in whole blocks"
        );
        self.file(file)?;
        noted!(
            self,
            Operation::Write {
                file,
                at,
                data: Bytes::copy_from_slice(bytes),
                durable: false
            },
            self.write_blocks(file, at, bytes)
        )
    }

    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.file(file)?;
        noted!(self, Operation::Sync { file }, sync(&self.open[&file]))
    }

    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        assert!(
            bytes.is_multiple_of(BLOCK_BYTES as u64),
            "a prepared file is whole blocks"
        );
        self.open.remove(&file);
        let result = self.fill_with_zeros(file, bytes);
        if result == Err(DiskError::NoSpace) {
            self.open.remove(&file);
            // The error that matters is the one that led here; a file that stays is found by the next listing.
            let _ = self.remove_entry(file);
            self.sync_directory()?;
        }
        result
    }

    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        self.file(file)?;
        let opened = &self.open[&file];
        noted!(
            self,
            Operation::Truncate { file, bytes },
            opened.set_len(bytes).map_err(|error| told(&error))
        )?;
        noted!(self, Operation::Sync { file }, sync(opened))
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.open.remove(&file);
        self.remove_entry(file)?;
        self.sync_directory()
    }
}

fn told(error: &io::Error) -> DiskError {
    disk_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Not repeated for any error, an interruption included: the kernel may have dropped the bytes.
fn sync(file: &File) -> Result<(), DiskError> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fsync(file.as_raw_fd()) })
        .map(drop)
        .map_err(|error| told(&error))
}

fn read_exact(file: &File, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
    if read_up_to(file, at, into)? < into.len() {
        return Err(DiskError::Short);
    }
    Ok(())
}

/// Reads until `into` is full or the file ends. A read ends off a sector's boundary only at the file's end.
fn read_up_to(file: &File, at: u64, into: &mut [u8]) -> Result<usize, DiskError> {
    let mut done = 0;
    while done < into.len() {
        let got = uninterrupted(|| file.read_at(&mut into[done..], at + done as u64))
            .map_err(|error| told(&error))?;
        done += got;
        if got == 0 || !done.is_multiple_of(SECTOR_BYTES) {
            break;
        }
    }
    Ok(done)
}

/// Writes all of `bytes`. A short write goes on where it ended, which for a direct one is a sector's boundary.
fn write_all(file: &File, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
    let mut done = 0;
    while done < bytes.len() {
        let got = uninterrupted(|| file.write_at(&bytes[done..], at + done as u64))
            .map_err(|error| told(&error))?;
        if got == 0 {
            return Err(DiskError::NoSpace);
        }
        done += got;
    }
    Ok(())
}
