//! A profile's flags, put where the user would have typed them. What the user did type, and what contradicts it, is left
//! out, so that explicit flags beat the profile; so is what the mode does not have, so that a sweep can take the workload
//! of a profile that saturates.

use super::Arguments;
use crate::profiles::{self, Flag};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use std::ffi::OsString;

/// Parses a command line, the program's name first.
///
/// # Errors
/// What clap says: help and version too.
pub(crate) fn parse(words: &[OsString]) -> Result<Arguments, clap::Error> {
    let mut command = Arguments::command();
    command.build();
    let matches = command.try_get_matches_from_mut(words)?;
    let Some((flags, name)) = flags(&command, &matches) else {
        return Arguments::from_arg_matches(&matches);
    };
    let mut spliced = Vec::new();
    let mut flags = Some(flags);
    for word in words {
        spliced.push(word.clone());
        if word.as_os_str() == name
            && let Some(flags) = flags.take()
        {
            spliced.extend(flags.into_iter().map(|flag| OsString::from(flag.word())));
        }
    }
    Arguments::from_arg_matches(&command.try_get_matches_from_mut(spliced)?)
}

/// The flags to add behind the mode's name; none without a profile.
fn flags<'a>(command: &Command, matches: &'a ArgMatches) -> Option<(Vec<Flag>, &'a str)> {
    let (name, given) = matches.subcommand()?;
    let mode = command.find_subcommand(name)?;
    let profile = given
        .try_get_one::<String>("profile")
        .ok()
        .flatten()
        .and_then(|name| profiles::find(name))?;
    let typed = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let wanted = profile.flags.iter().filter(|flag| {
        let known = mode
            .get_arguments()
            .find(|argument| argument.get_long() == Some(flag.name));
        known.is_some_and(|argument| {
            !typed(argument.get_id().as_str())
                && !mode
                    .get_arg_conflicts_with(argument)
                    .iter()
                    .any(|other| typed(other.get_id().as_str()))
        })
    });
    Some((wanted.copied().collect(), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Mode, Plan};
    use crate::profiles::PROFILES;

    fn plan(words: &[&str]) -> Result<Plan, clap::Error> {
        let words: Vec<OsString> = ["loadgen"]
            .iter()
            .chain(words)
            .map(OsString::from)
            .collect();
        parse(&words).map(|arguments| match arguments.command {
            super::super::Command::Run(run) => run.plan(),
            other => panic!("not a run: {other:?}"),
        })
    }

    #[test]
    fn every_profile_is_a_run_that_can_be_carried_out() {
        for profile in PROFILES {
            let by_name = plan(&["run", "--profile", profile.name]).expect("it parses");
            by_name.check().expect("it can be carried out");
            let mut words = vec!["run".to_owned()];
            words.extend(profile.flags.iter().map(|flag| flag.word()));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut by_flags = plan(&words).expect("the flags alone are the same");
            by_flags.profile = Some(profile.name.to_owned());
            assert_eq!(format!("{by_name:?}"), format!("{by_flags:?}"));
        }
    }

    #[test]
    fn explicit_flags_beat_the_profile_wherever_they_stand() {
        for words in [
            ["run", "--profile", "durable-ingest", "--connections", "3"],
            ["run", "--connections", "3", "--profile", "durable-ingest"],
        ] {
            let plan = plan(&words).expect("it parses");
            assert_eq!(plan.connections, 3);
            assert_eq!(plan.shape.records, 64);
            assert_eq!(plan.mode, Mode::Saturation);
        }
        // A rate replaces the profile's saturation; both typed stay a contradiction.
        let open = plan(&["run", "--profile", "durable-ingest", "--rate", "5"]);
        assert!(matches!(open.expect("it parses").mode, Mode::Open { .. }));
        let both = [
            "run",
            "--profile",
            "durable-ingest",
            "--rate",
            "5",
            "--saturate",
        ];
        assert!(plan(&both).is_err());
        assert!(plan(&["run", "--profile", "no-such"]).is_err());
    }
}
