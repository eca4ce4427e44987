//! What the images begin with: `concertina container …`.
//!
//! A container runs a sidecar around the command that its image or `docker run` names. Whoever gives an option there, or one of our own
//! commands, as in `docker run IMAGE --help` and `docker run IMAGE members`, means this program.

use std::ffi::OsString;

/// The word that the images put before what a container is to run.
const WORD: &str = "container";

/// The arguments of this program, with those of a container put into what they mean.
pub(crate) fn unfold(mut arguments: Vec<OsString>, program: &clap::Command) -> Vec<OsString> {
    if arguments.get(1).is_none_or(|word| word != WORD) {
        return arguments;
    }
    arguments.remove(1);
    let is_ours = arguments.get(1).is_some_and(|first| {
        let is_command = first.to_str().is_some_and(|name| program.find_subcommand(name).is_some());
        is_command || first == "help" || first.as_encoded_bytes().starts_with(b"-")
    });
    if !is_ours {
        arguments.splice(1..1, ["sidecar".into(), "--".into()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_runs_a_sidecar_around_its_command_unless_it_is_asked_for_something_else() {
        let program = clap::Command::new("concertina").subcommand(clap::Command::new("members"));
        let unfolded = |line: &str| {
            let arguments = line.split_whitespace().map(OsString::from).collect();
            unfold(arguments, &program).join(" ".as_ref()).into_string().unwrap()
        };
        for (line, meant) in [
            ("c container /c dns", "c sidecar -- /c dns"),
            ("c container billing --port 1", "c sidecar -- billing --port 1"),
            ("c container", "c sidecar --"),
            ("c container --help", "c --help"),
            ("c container members --json", "c members --json"),
            ("c container help members", "c help members"),
            ("c members", "c members"),
            ("c", "c"),
        ] {
            assert_eq!(unfolded(line), meant);
        }
    }
}
