//! What [`program::start`] does to a whole process. This test runs itself as that process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader},
    process::{Command, ExitCode, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Says which program this process is to be.
const PROGRAM: &str = "TEST_PROGRAM";

fn main() -> ExitCode {
    if let Ok(program) = env::var(PROGRAM) {
        return run(&program);
    }
    a_panic_of_any_thread_ends_the_process_with_its_message();
    last_words_are_written();
    a_stuck_stderr_does_not_hold_the_end_up();
    a_full_stderr_changes_nothing();
    the_soft_limit_is_raised_and_a_child_has_the_old_one();
    a_misspelled_level_is_named_and_an_empty_one_is_the_default();
    a_log_is_text_or_objects();
    ExitCode::SUCCESS
}

/// The programs.
fn run(program: &str) -> ExitCode {
    program::start();
    match program {
        "panics" => {
            let _ = thread::spawn(|| panic!("lost\nthe thread")).join();
            thread::park();
        }
        "talks" => {
            (0..10_000).for_each(|n| tracing::info!(n, "a line"));
            program::stderr().insist("error: last words");
        }
        "limits" => {
            let mut child = Command::new("sh");
            child.args(["-c", "ulimit -n"]);
            program::limits::restore_descriptors(&mut child);
            let said = child.output().unwrap().stdout;
            let of_child = String::from_utf8(said).unwrap();
            println!("{} {}", program::limits::descriptors_max(), of_child.trim());
        }
        "levels" => {
            tracing::info!("told");
            tracing::debug!("not told");
        }
        other => unreachable!("{other}"),
    }
    program::flush();
    ExitCode::from(7)
}

fn command(program: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(PROGRAM, program).env_remove(program::LOG_VARIABLE).env_remove("RUST_BACKTRACE");
    command
}

fn stderr_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn a_panic_of_any_thread_ends_the_process_with_its_message() {
    let output = command("panics").output().unwrap();
    assert_eq!(output.status.code(), Some(program::PANIC_EXIT_CODE));
    let said = stderr_of(&output);
    assert!(said.contains("this is a bug") && said.contains("lost\nthe thread"), "{said}");
}

fn last_words_are_written() {
    let output = command("talks").output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(stderr_of(&output).ends_with("error: last words\n"));
}

fn a_stuck_stderr_does_not_hold_the_end_up() {
    let (reader, writer) = io::pipe().unwrap();
    let started = Instant::now();
    let status = command("talks").stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(7));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(BufReader::new(reader).lines().next().unwrap().unwrap().contains("a line"));
}

fn a_full_stderr_changes_nothing() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = command("talks").stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(7));
}

fn the_soft_limit_is_raised_and_a_child_has_the_old_one() {
    let found = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..found }).unwrap();
    let output = command("limits").stderr(Stdio::inherit()).output().unwrap();
    setrlimit(Resource::Nofile, found).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{} 64\n", found.maximum.unwrap()));
}

fn a_log_is_text_or_objects() {
    let log = |format| stderr_of(&command("levels").env(program::FORMAT_VARIABLE, format).output().unwrap());
    assert!(
        log("json").starts_with('{') && log("json").contains(r#""level":"INFO","message":"told""#),
        "{}",
        log("json")
    );
    assert!(log("text").contains(" INFO told"), "{}", log("text"));
    assert!(
        log("xml").contains("expected text or json") && log("xml").contains(" INFO told"),
        "{}",
        log("xml")
    );
}

fn a_misspelled_level_is_named_and_an_empty_one_is_the_default() {
    for wish in ["", "loud"] {
        let said = stderr_of(&command("levels").env(program::LOG_VARIABLE, wish).output().unwrap());
        assert!(said.contains(" told") && !said.contains("not told"), "{said}");
        assert_eq!(said.contains(r#"CONCERTINA_LOG="loud""#), wish == "loud", "{said}");
    }
}
