//! The memory that a sidecar holds: what only its start needed is given back.
//!
//! The kernel maps a program's pages sixteen at a time, wanted or not, and keeps them mapped: after its start a sidecar counts nearly
//! all of the program as its own, and of the C library, although in a minute of gossip it runs through a fraction of it. There is one
//! sidecar beside every container, so it matters. What is given back stays in the page cache, and the first use maps
//! it again without reading.

use std::{
    ffi::c_void,
    fs,
    io::{self, BufRead, BufReader},
    ops::Range,
};

use rustix::mm::{Advice, madvise};

/// Gives back all pages of program code; those in use come back one by one.
///
/// # Errors
/// `/proc` that cannot be read, or a kernel that refuses; nothing is lost by it.
pub(crate) fn give_back_code() -> io::Result<()> {
    for line in BufReader::new(fs::File::open("/proc/self/maps")?).lines() {
        let Some(range) = code_of(&line?) else { continue };
        // SAFETY: code mapped from a file is private and not writable, so each page is the file's, before and after: using it again
        // reads the same bytes. Pages that were written before they became code would not be: linkers make no text relocations
        // unless told to, and a debugger's breakpoints are its own affair. The range was a mapping's own a moment ago, as the
        // kernel says; nothing here unloads libraries, after which another mapping could be there.
        #[expect(unsafe_code, reason = "the kernel offers no other way, and rustix no safe one")]
        unsafe {
            madvise(range.start as *mut c_void, range.len(), Advice::LinuxDontNeed)?;
        }
    }
    Ok(())
}

/// The addresses of a line of `/proc/self/maps`, if it is code from a file.
fn code_of(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (addresses, rights, _offset, _device, inode) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if rights != "r-xp" || inode == "0" {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_a_file_is_given_back() {
        let code = "5581c0a3e000-5581c0e00000 r-xp 0013e000 00:2f 1234 /usr/bin/concertina";
        assert_eq!(code_of(code), Some(0x5581_c0a3_e000..0x5581_c0e0_0000));
        for other in [
            "5581c0e00000-5581c0f00000 r--p 00500000 00:2f 1234 /usr/bin/concertina",
            "5581c0f00000-5581c0f10000 rw-p 00600000 00:2f 1234 /usr/bin/concertina",
            "5581c0f00000-5581c0f10000 rwxp 00600000 00:2f 1234 /usr/bin/concertina",
            "7ffd1c5f2000-7ffd1c5f4000 r-xp 00000000 00:00 0 [vdso]",
            "7f0000000000-7f0000001000 r-xs 00000000 00:2f 1234 /usr/bin/concertina",
            "",
        ] {
            assert_eq!(code_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_runs_on_and_with_less() {
        let code_kib = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap().to_owned();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = code_kib();
        give_back_code().unwrap();
        assert!(code_kib() < before, "{before} KiB before");
    }
}
