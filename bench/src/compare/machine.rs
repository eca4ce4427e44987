//! Where the numbers were made: the machine, and the programs that took part.

use std::{collections::BTreeSet, fs, thread};

/// One line for each thing that a reader needs to judge the numbers by.
pub(crate) fn describe() -> Vec<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let uname = rustix::system::uname();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    vec![
        format!("CPU: {}", cpu_model(&cpuinfo)),
        format!("Cores: {cores}, {}", hypervisor(&cpuinfo)),
        format!("Kernel: {} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
    ]
}

fn cpu_model(cpuinfo: &str) -> String {
    let models: BTreeSet<&str> = cpuinfo.lines().filter_map(|line| value(line, "model name")).collect();
    if models.is_empty() { "unknown".to_owned() } else { models.into_iter().collect::<Vec<_>>().join(", ") }
}

fn hypervisor(cpuinfo: &str) -> &'static str {
    let mut flags = cpuinfo.lines().filter_map(|line| value(line, "flags")).flat_map(str::split_whitespace);
    if flags.any(|flag| flag == "hypervisor") { "a virtual machine" } else { "not a virtual machine" }
}

fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    (found.trim() == name).then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_told_once_however_many_cores_have_it() {
        let core = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor sse2\n";
        let cpuinfo = core.repeat(2);
        assert_eq!(cpu_model(&cpuinfo), "AMD EPYC");
        assert_eq!(hypervisor(&cpuinfo), "a virtual machine");
        assert_eq!(cpu_model(""), "unknown");
    }
}
