//! What the kernel says of a process: where it comes from, and with whom it belongs.

use std::fs;

use rustix::process::Pid;

/// Fields of `/proc/PID/stat` behind the process's name (`proc_pid_stat(5)`), counted from its state.
const PARENT: usize = 1;
const SESSION: usize = 3;

/// The process that started it, if that is in this process's namespace and this one is not gone.
pub fn parent(pid: Pid) -> Option<Pid> {
    field(pid, PARENT)
}

/// The process that leads its session, if that is in this process's namespace and this one is not gone.
///
/// `getsid(2)` says 0 where the leader is outside the namespace, as it is of whatever `docker exec` starts, and the safe wrapper of that call
/// takes the number for one of a process.
pub fn session(pid: Pid) -> Option<Pid> {
    field(pid, SESSION)
}

fn field(pid: Pid, index: usize) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse_field(&stat, index)
}

/// The name may have brackets and spaces; what follows it has neither.
fn parse_field(stat: &str, index: usize) -> Option<Pid> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let number = after_name.split(' ').nth(index)?.parse().ok()?;
    if number > 0 { Pid::from_raw(number) } else { None }
}

#[cfg(test)]
mod tests {
    use rustix::process::{getpid, getppid};

    use super::*;

    #[test]
    fn a_process_has_the_parent_and_the_session_that_the_kernel_says() {
        assert_eq!(parent(getpid()), getppid());
        let outside = parse_field("7 (sh) S 0 0 0 0", SESSION);
        assert_eq!(outside, None, "0 stands for a leader outside the namespace");
    }

    #[test]
    fn a_name_with_brackets_and_spaces_hides_no_field() {
        let stat = "12 (a) R 1 (b) S 5 6 7 0 -1";
        assert_eq!(parse_field(stat, PARENT), Pid::from_raw(5));
        assert_eq!(parse_field(stat, SESSION), Pid::from_raw(7));
    }
}
