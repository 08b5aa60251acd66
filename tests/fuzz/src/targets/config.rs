//! A configuration file. What is refused names a line or a key; what is taken is printed as a file that is taken again and
//! gives every key the same value.

use tiderace::hostile;

use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "config",
    about: "a configuration file: refused with a line or a key, or printed as a file that says the same again",
    corpus,
    seal: no_seal,
    run,
};

fn corpus() -> Vec<Vec<u8>> {
    let (_, whole) = hostile::config("").expect("the defaults are taken");
    let mut corpus: Vec<Vec<u8>> = whole.lines().map(|line| line.as_bytes().to_vec()).collect();
    corpus.push(whole.into_bytes());
    let some = [
        "shards = 2\nmemory = \"64MiB\"\n",
        "data_dir = '''a\nb'''\n",
        "listen = \"[::1]:1\"\nscrub = \"0\"\n",
        "data_dir = \"\\u00e9 # \\\"x\\\"\"\n",
    ];
    corpus.extend(some.iter().map(|text| text.as_bytes().to_vec()));
    corpus
}

fn run(input: &[u8]) -> Taken {
    let Ok(text) = core::str::from_utf8(input) else {
        return Taken::No;
    };
    match hostile::config(text) {
        Ok((texts, printed)) => {
            let again = hostile::config(&printed);
            let (again, _) = again.unwrap_or_else(|why| panic!("{why}, in {printed}"));
            assert_eq!(again, texts, "printed as {printed}");
            Taken::Yes
        }
        Err(why) => {
            assert!(
                why.contains("hostile.toml:") || why.contains("default"),
                "{why}"
            );
            Taken::No
        }
    }
}
