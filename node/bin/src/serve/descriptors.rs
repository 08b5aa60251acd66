//! Who may have how many of the process's descriptors. The limit of open files is divided at the start, so that peers that
//! connect can take no descriptor that a journal needs: what remains beside the files is the number of connections, and one
//! more is turned away. A limit that leaves too little is refused before anything is recovered.

use crate::admin;
use crate::exit::{Exit, Failure};
use tiderace_base::limits::CONNECTIONS_PER_SHARD_MAX;
use tiderace_io::{descriptors_besides, descriptors_of_links, pin};

/// The process itself: its streams, the data directory and its lock, the admin port's listener and what its runtime needs,
/// and a file that is read for a moment.
const PROCESS: usize = 32;
/// The listeners of one shard: the address that all share, and its own.
const LISTENERS: usize = 2;
/// Files of one journal that may be open at once, at least and at most. Recovery has fewer open.
const FILES_MIN: usize = 24;
const FILES_MAX: usize = 256;
/// Connections of one shard, at least: fewer serve nobody.
const CONNECTIONS_MIN: usize = 16;
/// Connections beyond those that a shard serves, which are told why they are not.
const TOLD_MAX: usize = 64;
/// Links between control threads that may be open at once: two with each of as many nodes as a zone is likely to have.
pub(crate) const LINKS_MAX: usize = 128;
/// What a process has when nobody says otherwise.
const LIMIT_UNKNOWN: u64 = 1024;

/// What one shard, and one journal, may have open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    /// Connections that a shard serves.
    pub(crate) connections_served: usize,
    /// Connections that its driver accepts: a few more, which are told that there are too many.
    pub(crate) connections_max: usize,
    /// Files of one journal, control's included.
    pub(crate) files_max: usize,
}

/// Raises the limit of open files as far as it goes, and says how far that is.
pub(crate) fn raise() -> u64 {
    pin::raise_open_files().unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files is not known: takes it for {LIMIT_UNKNOWN}");
        LIMIT_UNKNOWN
    })
}

/// Divides `limit` descriptors among the threads of a node.
pub(crate) fn divide(limit: u64, shards: u16, is_linked: bool) -> Result<Share, Failure> {
    let count = usize::from(shards.max(1));
    let journals = count + 1;
    let links = match is_linked {
        true => descriptors_of_links(LINKS_MAX),
        false => 0,
    };
    let fixed = PROCESS
        + links
        + admin::CONNECTIONS_MAX
        + descriptors_besides(0)
        + count * descriptors_besides(LISTENERS);
    let least = fixed + journals * FILES_MIN + count * CONNECTIONS_MIN;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit < least {
        return Err(Failure::new(
            Exit::OpenFiles,
            format!(
                "the limit of open files is {limit}: {} at least {least}, for the journals and a few connections",
                if shards == 1 { "1 shard needs".to_owned() } else { format!("{shards} shards need") }
            ),
        )
        .hint("raise it (ulimit -Hn, LimitNOFILE= of the service, --ulimit nofile= of the container), or run fewer shards; a connection takes one each"));
    }
    let rest = limit - fixed;
    let files_max = (rest / 4 / journals).clamp(FILES_MIN, FILES_MAX);
    let connections_max =
        ((rest - journals * files_max) / count).min(CONNECTIONS_PER_SHARD_MAX + TOLD_MAX);
    let connections_served = connections_max - (connections_max / 8).clamp(1, TOLD_MAX);
    Ok(Share {
        connections_served,
        connections_max,
        files_max,
    })
}

const _: () = assert!(CONNECTIONS_MIN > 1, "one is served and one is told");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_more_than_the_limit() {
        for shards in [1, 2, 3, 16, 255, 256_u16] {
            let count = usize::from(shards);
            let least = (0..u64::MAX)
                .find(|limit| divide(*limit, shards, true).is_ok())
                .expect("some limit is enough");
            for limit in (least..least + 5000).chain([65_536, 1 << 20, u64::MAX]) {
                let Ok(share) = divide(limit, shards, true) else {
                    assert!(limit < least, "{limit} is refused, {least} is not");
                    continue;
                };
                let all = PROCESS
                    + descriptors_of_links(LINKS_MAX)
                    + admin::CONNECTIONS_MAX
                    + descriptors_besides(0)
                    + share.files_max
                    + count
                        * (descriptors_besides(LISTENERS)
                            + share.files_max
                            + share.connections_max);
                assert!(all as u64 <= limit, "{shards} shards, {limit}: {share:?}");
                assert!(share.connections_served < share.connections_max);
                assert!((FILES_MIN..=FILES_MAX).contains(&share.files_max));
            }
        }
    }

    #[test]
    fn with_enough_of_them_the_bounds_of_the_product_hold() {
        let share = divide(1 << 20, 16, false).expect("enough");
        assert_eq!(share.connections_served, CONNECTIONS_PER_SHARD_MAX);
        assert_eq!(share.files_max, FILES_MAX);
    }

    #[test]
    fn a_limit_that_serves_nobody_is_refused_with_what_to_do() {
        for (limit, shards, need) in [
            (200, 2, "2 shards need at least"),
            (20, 1, "1 shard needs at least"),
        ] {
            let failure = divide(limit, shards, true).expect_err("too few");
            assert_eq!(failure.exit, Exit::OpenFiles);
            let message = failure.to_string();
            assert!(
                message.contains(&format!("is {limit}: {need}"))
                    && message.contains("LimitNOFILE="),
                "{message}"
            );
        }
    }
}
