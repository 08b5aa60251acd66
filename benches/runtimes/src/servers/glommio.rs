//! glommio as its guide uses it: one pinned executor, sockets through `AsyncRead` and `AsyncWrite`, a `DmaFile` written
//! with buffers of `alloc_dma_buffer`, which come from its registered memory while there is some. One task reads a
//! connection and answers echoes, a second one sends its acknowledgements, `writes_max` tasks write chunks.
//!
//! The file is opened with `O_DSYNC`, unless `fdatasync` is asked for: a write's completion then means what `RWF_DSYNC` does, without a second operation.
//! Its three rings register the same memory, and each counts against the limit of locked memory: `IO_MEMORY_BYTES` is
//! chosen so that 8 MiB are enough.

use super::tasks::{Committer, Heard, Outbox, take_frames};
use super::{Options, announce, anywhere, fatal, synced, written};
use crate::commit::{CHUNK_BYTES_MAX, Chunk, Group};
use crate::protocol::{FrameBuffer, Requests};
use futures_lite::io::WriteHalf;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement, spawn_local};
use std::rc::Rc;

/// Memory that glommio registers with each of its three rings.
const IO_MEMORY_BYTES: usize = 2 << 20;

/// A chunk in glommio's own memory.
struct DmaChunk {
    buffer: DmaBuffer,
    len: usize,
}

impl DmaChunk {
    fn new(file: &DmaFile) -> Self {
        Self {
            buffer: file.alloc_dma_buffer(CHUNK_BYTES_MAX),
            len: 0,
        }
    }
}

impl Chunk for DmaChunk {
    fn append(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.buffer.as_bytes_mut()[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    fn filled(&self) -> &[u8] {
        &self.buffer.as_bytes()[..self.len]
    }
}

pub(super) fn run(options: &Options) -> Result<(), String> {
    let executor = LocalExecutorBuilder::new(Placement::Fixed(options.cpu))
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| format!("the executor cannot start: {error}"))?;
    executor.run(serve_all(options))
}

async fn serve_all(options: &Options) -> Result<(), String> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(options.peer_flags().bits().cast_signed())
        .dma_open(options.file())
        .await
        .map_err(|error| format!("the file cannot be opened: {error}"))?;
    let file = Rc::new(file);
    let listener =
        TcpListener::bind(anywhere()).map_err(|error| format!("cannot listen: {error}"))?;
    let address = listener
        .local_addr()
        .map_err(|error| format!("no address: {error}"))?;
    announce(address);
    let committer = Rc::new(Committer::new(Group::new(
        options.file_bytes,
        options.writes_max,
    )));
    for _ in 0..options.writes_max {
        let (file, committer) = (Rc::clone(&file), Rc::clone(&committer));
        spawn_local(write_chunks(file, committer, options.fdatasync)).detach();
    }
    loop {
        let stream = listener
            .accept()
            .await
            .map_err(|error| format!("accept: {error}"))?;
        stream
            .set_nodelay(true)
            .map_err(|error| format!("nodelay: {error}"))?;
        spawn_local(serve(stream, Rc::clone(&file), Rc::clone(&committer))).detach();
    }
}

async fn write_chunks(file: Rc<DmaFile>, committer: Rc<Committer<DmaChunk>>, fdatasync: bool) {
    loop {
        let taken = committer.next().await;
        let DmaChunk { mut buffer, len } = taken.chunk;
        buffer.trim_to_size(len);
        let result = file.write_at(buffer, taken.at).await;
        written(result.map_err(std::io::Error::from), len);
        if fdatasync {
            synced(file.fdatasync().await);
        }
        // A trimmed buffer does not grow again: the next chunk takes a new one, which the allocator has at hand.
        committer.done(taken.id, None);
    }
}

async fn serve(stream: TcpStream, file: Rc<DmaFile>, committer: Rc<Committer<DmaChunk>>) {
    let (mut reader, writer) = futures_lite::io::split(stream);
    // Used here for echoes, or moved to a task of its own for acknowledgements: a connection has one or the other.
    let mut writer = Some(writer);
    let outbox = Rc::new(Outbox::default());
    let (mut buffer, mut requests) = (FrameBuffer::new(), Requests::default());
    let mut replies = Vec::new();
    loop {
        match reader.read(buffer.room()).await {
            // The client ends in order only; anything else it reports itself.
            Ok(0) | Err(_) => break,
            Ok(count) => buffer.received(count),
        }
        let heard = take_frames(
            &mut buffer,
            &mut requests,
            &mut replies,
            &committer,
            &outbox,
            || DmaChunk::new(&file),
        );
        match heard.await {
            Heard::Nothing => {}
            Heard::Appends => {
                if let Some(writer) = writer.take() {
                    spawn_local(send(writer, Rc::clone(&outbox))).detach();
                }
            }
            Heard::Echoes => {
                let Some(writer) = &mut writer else {
                    fatal("an echo on a connection of appends");
                };
                if writer.write_all(&replies).await.is_err() {
                    break;
                }
                replies.clear();
            }
        }
    }
    outbox.close();
    if let Err(broken) = buffer.end() {
        fatal(broken);
    }
}

async fn send(mut writer: WriteHalf<TcpStream>, outbox: Rc<Outbox>) {
    let mut empty = Vec::new();
    while let Some(acks) = outbox.take(empty).await {
        if writer.write_all(&acks).await.is_err() {
            return;
        }
        empty = acks;
    }
}
