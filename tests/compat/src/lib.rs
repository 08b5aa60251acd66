//! Golden bytes of every published format: what was written by an older release must read the same for ever.
//! The tests are beside this file, in `tests/`.

#![forbid(unsafe_code)]
