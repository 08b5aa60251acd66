//! The Rust SDK: a core without IO that holds every rule of the session, and a tokio driver around it.

#![forbid(unsafe_code)]
