//! Where this node is: its sockets, its address, its name, and what it runs in.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use feed::Name;
use tokio::{net::UdpSocket, time::timeout};

use crate::{config::Args, node::seeds::Sources};

/// Kernel buffer for incoming datagrams: a mass start sends thousands within a scheduling delay.
const DATAGRAM_BUFFER_BYTES: usize = 1 << 20;
/// Deadline for looking at the seeds once, at the start, to learn which interface leads to them.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_millis(1200);

pub(super) fn bind_failed(protocol: &str, addr: SocketAddr) -> String {
    format!("--bind {addr}: cannot listen for gossip by {protocol} there")
}

pub(super) fn bind_udp(addr: SocketAddr) -> anyhow::Result<UdpSocket> {
    let udp = std::net::UdpSocket::bind(addr).with_context(|| bind_failed("UDP", addr))?;
    udp.set_nonblocking(true)?;
    // The kernel may grant less; the default then has to do.
    let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(DATAGRAM_BUFFER_BYTES);
    Ok(UdpSocket::from_std(udp)?)
}

/// The address that others reach this node at: as told, as bound, or that of the interface that leads to a seed.
pub(super) async fn advertised(args: &Args, sources: &Sources) -> anyhow::Result<IpAddr> {
    if let Some(ip) = args.advertise {
        return Ok(ip);
    }
    if !args.bind.ip().is_unspecified() {
        return Ok(args.bind.ip());
    }
    let towards_seed = sources.find(async |seed| {
        let probe = UdpSocket::bind(SocketAddr::new(args.bind.ip(), 0)).await.ok()?;
        // Connecting a datagram socket sends nothing: it only asks the routing table.
        probe.connect(seed).await.ok()?;
        let local = probe.local_addr().ok()?.ip();
        (!local.is_loopback()).then_some(local)
    });
    if let Ok(Some(ip)) = timeout(FIRST_LOOK_TIMEOUT, towards_seed).await {
        return Ok(ip);
    }
    let interfaces = if_addrs::get_if_addrs().context("cannot list the network interfaces")?;
    let addresses =
        interfaces.iter().filter(|i| !i.is_loopback() && !i.is_link_local()).map(if_addrs::Interface::ip);
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    let own = v4.into_iter().chain(v6).next();
    own.context(
        "no network interface but loopback: give the address that others reach this node at with --advertise",
    )
}

/// Whether Docker or Podman made this filesystem: there the nameserver may be the dnsserver, elsewhere it is somebody else's.
pub(super) fn is_in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
}

pub(super) fn hostname() -> anyhow::Result<Name> {
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy();
    let label = hostname.split('.').next().unwrap_or_default();
    label.parse().context("the hostname cannot be the node's name; give one with --node")
}
