//! Which right word a wrong one was meant to be. Counts the slips of a hurried hand: a letter too many, too few, wrong, or
//! swapped with its neighbour; dashes, underscores and case are no slips.

/// The closest of `known`, when it is close enough that saying so helps more than it misleads.
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    if word.is_empty() {
        return None;
    }
    let slips_max = (word.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| {
            let target = plain(candidate);
            // Somebody who wrote only the beginning or the end of a name means that name.
            let is_part = word.len() >= 3 && (target.starts_with(&word) || target.ends_with(&word));
            let slips = if is_part { 1 } else { slips(&word, &target) };
            (slips, candidate)
        })
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

fn plain(word: &str) -> Vec<u8> {
    word.bytes()
        .filter(|byte| !matches!(byte, b'-' | b'_' | b' '))
        .map(|byte| byte.to_ascii_lowercase())
        .collect()
}

/// The optimal string alignment distance.
fn slips(from: &[u8], to: &[u8]) -> usize {
    let width = to.len() + 1;
    let mut before_last = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for row in 1..=from.len() {
        let mut current = vec![row; width];
        for column in 1..width {
            let is_wrong = usize::from(from[row - 1] != to[column - 1]);
            let mut best = (last[column] + 1)
                .min(current[column - 1] + 1)
                .min(last[column - 1] + is_wrong);
            let is_swap = row > 1
                && column > 1
                && from[row - 1] == to[column - 2]
                && from[row - 2] == to[column - 1];
            if is_swap {
                best = best.min(before_last[column - 2] + 1);
            }
            current[column] = best;
        }
        before_last = core::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 5] = ["data_dir", "memory", "listen", "admin_listen", "segment"];

    #[test]
    fn hurried_hands_are_understood() {
        for (typed, meant) in [
            ("memroy", "memory"),
            ("memor", "memory"),
            ("Memory", "memory"),
            ("data-dir", "data_dir"),
            ("datadir", "data_dir"),
            ("data_dri", "data_dir"),
            ("admin", "admin_listen"),
            ("segments", "segment"),
            ("lisen", "listen"),
        ] {
            assert_eq!(closest(typed, KNOWN), Some(meant), "{typed}");
        }
    }

    #[test]
    fn strangers_are_not_guessed_at() {
        for typed in ["", "x", "replication_factor", "port"] {
            assert_eq!(closest(typed, KNOWN), None, "{typed}");
        }
    }
}
