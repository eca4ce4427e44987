//! What packages ship beside the program: completions for shells, and manual pages.

use std::path::PathBuf;

use anyhow::Context;

use crate::say::say;

#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Where the pages go: concertina.1 and one for each command, such as concertina-proxy.1
    dir: PathBuf,
}

/// Prints the completions of a shell.
pub(crate) fn completions(args: &CompletionsArgs) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "concertina", &mut script);
    say!("{}", String::from_utf8_lossy(&script).trim_end());
}

/// Writes the pages.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(&args.dir)?;
        clap_mangen::generate_to(super::command(), &args.dir)
    };
    write().with_context(|| format!("{}: cannot write the manual pages there", args.dir.display()))
}
