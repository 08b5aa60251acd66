//! Named workloads with their intent, so that two people who name one have measured the same. A profile is nothing but
//! flags: whatever it does can be typed. Each has a stream of its own, because a stream keeps the partitions that it was made
//! with; catch-up reads what durable-ingest wrote.

use serde::Serialize;

/// A flag as it is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flag {
    /// Without its dashes.
    pub(crate) name: &'static str,
    /// Empty: it takes none.
    value: &'static str,
}

impl Flag {
    /// One word of a command line.
    #[must_use]
    pub(crate) fn word(self) -> String {
        if self.value.is_empty() {
            format!("--{}", self.name)
        } else {
            format!("--{}={}", self.name, self.value)
        }
    }

    /// As people type it.
    fn text(self) -> String {
        self.word().replace('=', " ")
    }
}

/// A named workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) intent: &'static str,
    pub(crate) flags: &'static [Flag],
}

const fn flag(name: &'static str, value: &'static str) -> Flag {
    Flag { name, value }
}

/// All of them.
pub(crate) const PROFILES: &[Profile] = &[
    Profile {
        name: "durable-ingest",
        intent: "How many bytes a second become durable: 64 KiB batches of records of about 1 KB, as a busy client makes them.",
        flags: &[
            flag("stream", "loadgen/durable-ingest"),
            flag("saturate", ""),
            flag("durability", "local"),
            flag("connections", "8"),
            flag("in-flight", "4"),
            flag("partitions", "8"),
            flag("batch-records", "64"),
            flag("record-bytes", "960"),
        ],
    },
    Profile {
        name: "large-batches",
        intent: "What the largest batches add: 1 MiB of records of about 1 KB, few connections, the disk's bandwidth alone.",
        flags: &[
            flag("stream", "loadgen/large-batches"),
            flag("saturate", ""),
            flag("durability", "local"),
            flag("connections", "4"),
            flag("in-flight", "2"),
            flag("partitions", "4"),
            flag("batch-records", "1024"),
            flag("record-bytes", "978"),
        ],
    },
    Profile {
        name: "small-records",
        intent: "How many acknowledgements a second: single records of 256 B from many connections, none of them batched.",
        flags: &[
            flag("stream", "loadgen/small-records"),
            flag("saturate", ""),
            flag("durability", "local"),
            flag("connections", "64"),
            flag("in-flight", "16"),
            flag("partitions", "64"),
            flag("batch-records", "1"),
            flag("record-bytes", "256"),
        ],
    },
    Profile {
        name: "one-at-a-time",
        intent: "What one durable acknowledgement costs: a caller that waits for each record before it sends the next.",
        flags: &[
            flag("stream", "loadgen/one-at-a-time"),
            flag("saturate", ""),
            flag("durability", "local"),
            flag("connections", "1"),
            flag("in-flight", "1"),
            flag("partitions", "1"),
            flag("batch-records", "1"),
            flag("record-bytes", "256"),
        ],
    },
    Profile {
        name: "open-loop",
        intent: "What independent senders of 1 KB records feel at a fixed rate, whether or not the server keeps up.",
        flags: &[
            flag("stream", "loadgen/open-loop"),
            flag("rate", "10000"),
            flag("arrivals", "poisson"),
            flag("durability", "local"),
            flag("connections", "16"),
            flag("in-flight", "64"),
            flag("partitions", "16"),
            flag("batch-records", "1"),
            flag("record-bytes", "1024"),
        ],
    },
    Profile {
        name: "fan-out",
        intent: "What delivery costs beside durability: 1 KB records at a fixed rate, and eight subscribers of each partition.",
        flags: &[
            flag("stream", "loadgen/fan-out"),
            flag("rate", "2000"),
            flag("arrivals", "poisson"),
            flag("durability", "local"),
            flag("connections", "8"),
            flag("in-flight", "64"),
            flag("partitions", "8"),
            flag("batch-records", "1"),
            flag("record-bytes", "1024"),
            flag("fan-out", "8"),
        ],
    },
    Profile {
        name: "many-partitions",
        intent: "Whether one journal per shard holds when writes are scattered: 4,096 partitions of one stream take turns.",
        flags: &[
            flag("stream", "loadgen/many-partitions"),
            flag("saturate", ""),
            flag("durability", "local"),
            flag("connections", "16"),
            flag("in-flight", "16"),
            flag("partitions", "4096"),
            flag("batch-records", "4"),
            flag("record-bytes", "960"),
        ],
    },
    Profile {
        name: "many-streams",
        intent: "Whether streams are cheap: 100,000 of them, some hot and most nearly silent, at a fixed rate.",
        flags: &[
            flag("stream", "loadgen/many-streams"),
            flag("rate", "10000"),
            flag("arrivals", "poisson"),
            flag("durability", "local"),
            flag("connections", "16"),
            flag("in-flight", "64"),
            flag("streams", "100000"),
            flag("stream-spread", "zipf"),
            flag("partitions", "1"),
            flag("batch-records", "1"),
            flag("record-bytes", "1024"),
        ],
    },
    Profile {
        name: "hot-keys",
        intent: "What a skewed key space does to the partitions that it is hashed to, at a fixed rate.",
        flags: &[
            flag("stream", "loadgen/hot-keys"),
            flag("rate", "10000"),
            flag("arrivals", "poisson"),
            flag("durability", "local"),
            flag("connections", "16"),
            flag("in-flight", "64"),
            flag("partitions", "64"),
            flag("keys", "zipf"),
            flag("key-count", "1000000"),
            flag("theta", "0.99"),
            flag("batch-records", "1"),
            flag("record-bytes", "1024"),
        ],
    },
    Profile {
        name: "bad-subscribers",
        intent: "Whether a subscriber that stalls or dawdles costs anybody else: fan-out beside three that do not keep up.",
        flags: &[
            flag("stream", "loadgen/bad-subscribers"),
            flag("rate", "2000"),
            flag("arrivals", "poisson"),
            flag("durability", "local"),
            flag("connections", "8"),
            flag("in-flight", "64"),
            flag("partitions", "8"),
            flag("batch-records", "1"),
            flag("record-bytes", "1024"),
            flag("fan-out", "1"),
            flag("stalled", "2"),
            flag("slow", "1"),
            flag("slow-rate", "100000"),
        ],
    },
    Profile {
        name: "catch-up",
        intent: "What reading the old costs those who write the new; load the stream before, with durable-ingest.",
        flags: &[
            flag("stream", "loadgen/durable-ingest"),
            flag("rate", "2000"),
            flag("arrivals", "poisson"),
            flag("durability", "local"),
            flag("connections", "8"),
            flag("in-flight", "64"),
            flag("partitions", "8"),
            flag("batch-records", "1"),
            flag("record-bytes", "1024"),
            flag("fan-out", "1"),
            flag("catch-up", ""),
        ],
    },
];

/// The profile of this name.
#[must_use]
pub(crate) fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

/// Their names.
#[must_use]
pub(crate) fn names() -> Vec<&'static str> {
    PROFILES.iter().map(|profile| profile.name).collect()
}

/// One of the list, for programs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Listed {
    name: &'static str,
    intent: &'static str,
    flags: Vec<String>,
}

/// The list, for programs.
#[must_use]
pub(crate) fn list() -> Vec<Listed> {
    PROFILES
        .iter()
        .map(|profile| Listed {
            name: profile.name,
            intent: profile.intent,
            flags: profile.flags.iter().map(|flag| flag.word()).collect(),
        })
        .collect()
}

/// The list, for people.
#[must_use]
pub(crate) fn text() -> String {
    let paragraphs: Vec<String> = PROFILES
        .iter()
        .map(|profile| {
            let flags: Vec<String> = profile.flags.iter().map(|flag| flag.text()).collect();
            format!(
                "{}\n    {}\n    {}",
                profile.name,
                profile.intent,
                flags.join(" ")
            )
        })
        .collect();
    paragraphs.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_has_one_name_and_a_sentence() {
        let mut names = names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROFILES.len());
        for profile in PROFILES {
            assert!(profile.intent.ends_with('.'), "{}", profile.name);
            assert!(text().contains(profile.intent));
        }
    }
}
