//! Two halves of a network, in namespaces, and a link between them that can be cut, or lose packets, without either noticing.
//!
//! ```text
//! half A ── bridge A ═ link ═ bridge B ── half B
//! ```

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io,
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::skip;

/// Which half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    A,
    B,
}

/// The namespaces, which go with this value. No process may be left in them.
#[derive(Debug)]
pub(crate) struct Halves {
    tag: String,
}

impl Halves {
    /// None: namespaces cannot be made here.
    pub(crate) fn make() -> Option<Self> {
        // Not by the process's number: in a namespace of its own it has the same one each time, and what was killed may have left its own.
        let halves = Self { tag: format!("concertina-{:x}", RandomState::new().hash_one(())) };
        let made = ip(&format!("netns add {}", halves.switch()));
        if let Err(why) = made {
            skip::test(&format!("network namespaces (ip, as root): {why}"));
            return None;
        }
        let switch = halves.switch();
        order(&format!("-n {switch} link add link-a type veth peer name link-b"));
        for half in [Half::A, Half::B] {
            let (side, namespace) = (side(half), halves.namespace(half));
            order(&format!("netns add {namespace}"));
            order(&format!("-n {namespace} link set lo up"));
            order(&format!("-n {switch} link add bridge-{side} type bridge"));
            order(&format!("-n {switch} link add port-{side} type veth peer name eth0 netns {namespace}"));
            for port in ["port", "link"] {
                order(&format!("-n {switch} link set {port}-{side} master bridge-{side}"));
                order(&format!("-n {switch} link set {port}-{side} up"));
            }
            order(&format!("-n {switch} link set bridge-{side} up"));
            order(&format!("-n {namespace} link set eth0 up"));
        }
        Some(halves)
    }

    /// Gives a half an address, such as `10.0.0.2/24`.
    pub(crate) fn add_address(&self, half: Half, address: &str) {
        order(&format!("-n {} addr add {address} dev eth0", self.namespace(half)));
    }

    pub(crate) fn cut(&self) {
        order(&format!("-n {} link set link-a down", self.switch()));
    }

    pub(crate) fn heal(&self) {
        order(&format!("-n {} link set link-a up", self.switch()));
    }

    /// From now on, so many of a hundred packets are lost on the link, either way: by nftables, since not every kernel has netem.
    pub(crate) fn lose(&self, percent: u32) {
        let chain = |side| {
            format!(
                "chain {side} {{ type filter hook ingress device link-{side} priority 0; \
                 numgen random mod 100 < {percent} drop; }}"
            )
        };
        let rules = format!("table netdev loss {{ {}; {}; }}", chain('a'), chain('b'));
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.switch(), "nft", &rules]);
        let output = nft.output().unwrap();
        assert!(output.status.success(), "{nft:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The same command in a half. It is the same process: `ip` becomes what it runs.
    pub(crate) fn command(&self, half: Half, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace(half)]);
        inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// What a thread calls to be in a half from then on.
    pub(crate) fn entrance(&self, half: Half) -> impl Fn() -> io::Result<()> + Clone + Send + 'static {
        let namespace = PathBuf::from("/run/netns").join(self.namespace(half));
        move || {
            let namespace = File::open(&namespace)?;
            Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
        }
    }

    fn namespace(&self, half: Half) -> String {
        format!("{}-{}", self.tag, side(half))
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.tag)
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        for namespace in [self.namespace(Half::A), self.namespace(Half::B), self.switch()] {
            // An error means that it was never made.
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

fn side(half: Half) -> char {
    match half {
        Half::A => 'a',
        Half::B => 'b',
    }
}

fn order(arguments: &str) {
    ip(arguments).unwrap_or_else(|why| panic!("ip {arguments}: {why}"));
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
