//! A real terminal: a shell in tmux, at which the test types and reads.

use std::{cell::Cell, path::PathBuf, process::Command};

use super::{place::Place, skip, wait::until};

/// A terminal with a shell in it, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Tmux {
    socket: PathBuf,
    /// How often the terminal was looked at since a program ended.
    looks: Cell<u32>,
}

impl Tmux {
    /// None: there is no tmux here.
    pub(crate) fn start(place: &Place, width: u16, height: u16) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            skip::test("tmux");
            return None;
        }
        let tmux = Self { socket: place.join("tmux.sock"), looks: Cell::new(0) };
        let (width, height) = (width.to_string(), height.to_string());
        let shell = ["env", "-u", "ENV", "PS1=$ ", "sh"];
        let mut command = tmux.command(&["new-session", "-d", "-x", &width, "-y", &height]);
        assert!(command.args(shell).status().unwrap().success(), "{command:?}");
        // Blanks at the end of a line are not captured.
        tmux.shows("$");
        Some(tmux)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8").args(["-u", "-f", "/dev/null", "-S"]);
        command.arg(&self.socket).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types these characters.
    pub(crate) fn types(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    /// Presses a key, e.g. `Enter`.
    pub(crate) fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    /// Types a command for the shell.
    pub(crate) fn enter(&self, line: &str) {
        self.types(line);
        self.press("Enter");
    }

    pub(crate) fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What it shows.
    pub(crate) fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until it shows these words; the screen.
    pub(crate) fn shows(&self, words: &str) -> String {
        self.shows_that(words, |screen| screen.contains(words))
    }

    /// Waits until it shows what is looked for; the screen.
    pub(crate) fn shows_that(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let mut look = || {
            last = self.screen();
            is_there(&last).then(|| last.clone())
        };
        match super::wait::look_for(super::wait::DEADLINE, &mut look) {
            Some(screen) => screen,
            None => panic!("the terminal does not show {what}:\n{last}"),
        }
    }

    /// Waits until the shell has its terminal back as it was: with the prompt, echo and lines.
    pub(crate) fn is_restored(&self) {
        // What an earlier look has left on the screen is no answer to this one.
        let look = self.looks.get() + 1;
        self.looks.set(look);
        self.enter(&format!(
            "clear; stty -a | tr -s ' ;' '\\n\\n' | grep -x -e icanon -e echo | tr '\\n' '+'; echo $(({look}))."
        ));
        let wanted = format!("icanon+echo+{look}.");
        until("the terminal is as it was", || self.screen().starts_with(&wanted).then_some(()));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}
