//! tokio-uring as its examples use it: one task reads a connection with an owned buffer and answers echoes from it, a
//! second one sends its acknowledgements, `writes_max` tasks write chunks. The file is opened by `std` with `O_DIRECT`,
//! which the crate's own options cannot say, and with `O_DSYNC`, unless `sync_data` is asked for: a write's completion
//! then means what `RWF_DSYNC` does.

use super::tasks::{Committer, Heard, Outbox, take_frames};
use super::{Options, announce, anywhere, fatal, synced, written};
use crate::commit::{AlignedVec, Chunk, Group};
use crate::protocol::{FrameBuffer, Requests};
use rustix::fs::OFlags;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;
use tokio_uring::net::{TcpListener, TcpStream};

pub(super) fn run(options: &Options) -> Result<(), String> {
    let refused = |what: &'static str| move |error| format!("{what}: {error}");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags((OFlags::DIRECT | options.peer_flags()).bits().cast_signed())
        .open(options.file())
        .map_err(refused("the file cannot be opened"))?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .map_err(refused("the runtime cannot start"))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(anywhere()).map_err(refused("cannot listen"))?;
        announce(listener.local_addr().map_err(refused("no address"))?);
        let file = Rc::new(File::from_std(file));
        let group = Group::new(options.file_bytes, options.writes_max);
        let committer = Rc::new(Committer::new(group));
        for _ in 0..options.writes_max {
            tokio_uring::spawn(write_chunks(
                Rc::clone(&file),
                Rc::clone(&committer),
                options.fdatasync,
            ));
        }
        loop {
            let (stream, _) = listener.accept().await.map_err(refused("accept"))?;
            stream.set_nodelay(true).map_err(refused("nodelay"))?;
            tokio_uring::spawn(serve(Rc::new(stream), Rc::clone(&committer)));
        }
    })
}

async fn write_chunks(file: Rc<File>, committer: Rc<Committer<AlignedVec>>, fdatasync: bool) {
    loop {
        let taken = committer.next().await;
        let wanted = taken.chunk.filled().len();
        let (bytes, start, end) = taken.chunk.into_parts();
        let (result, slice) = file
            .write_at(bytes.slice(start..end), taken.at)
            .submit()
            .await;
        written(result, wanted);
        if fdatasync {
            synced(file.sync_data().await);
        }
        let spare = AlignedVec::from_vec(slice.into_inner());
        committer.done(taken.id, Some(spare));
    }
}

async fn serve(stream: Rc<TcpStream>, committer: Rc<Committer<AlignedVec>>) {
    let outbox = Rc::new(Outbox::default());
    tokio_uring::spawn(send(Rc::clone(&stream), Rc::clone(&outbox)));
    let (mut buffer, mut requests) = (FrameBuffer::new(), Requests::default());
    let mut replies = Vec::new();
    loop {
        let (bytes, room) = buffer.lend();
        let (result, slice) = stream.read(bytes.slice(room..)).await;
        buffer.take_back(slice.into_inner());
        match result {
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
            AlignedVec::new,
        );
        if let Heard::Echoes = heard.await {
            let (result, sent) = stream.write_all(replies).await;
            replies = sent;
            replies.clear();
            if result.is_err() {
                break;
            }
        }
    }
    outbox.close();
    if let Err(broken) = buffer.end() {
        fatal(broken);
    }
}

async fn send(stream: Rc<TcpStream>, outbox: Rc<Outbox>) {
    let mut empty = Vec::new();
    while let Some(acks) = outbox.take(empty).await {
        let (result, sent) = stream.write_all(acks).await;
        if result.is_err() {
            return;
        }
        empty = sent;
    }
}
