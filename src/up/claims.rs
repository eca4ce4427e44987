//! What a cluster takes of the machine for itself: the proxy's addresses, and a loopback network.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{self, net::UnixListener},
    },
};

use anyhow::Context;

use super::service::{Kind, NETWORK_FIRST, Services};

/// Where nodes gossip, each at its own address.
pub(super) const GOSSIP_PORT: u16 = 7946;

/// The second bytes of loopback addresses that clusters take; one each.
const NETWORKS: std::ops::RangeInclusive<u8> = 10..=250;

/// A port that is nobody else's, although the proxy may listen there.
pub(super) struct HeldPort {
    /// Bound without listening: nobody else gets it, the proxy does, because both allow sharing.
    _socket: socket2::Socket,
    /// Another launcher's proxy would be allowed to share it, too, and shows only once it listens. Launchers see this name
    /// of each other from the start.
    _name: UnixListener,
}

/// Claims the proxy's address.
pub(super) fn hold(listen: SocketAddr) -> io::Result<(SocketAddr, HeldPort)> {
    let bind = |listen: SocketAddr, share: bool| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share)?;
        socket.bind(&listen.into())?;
        Ok::<_, io::Error>(socket)
    };
    // A port that somebody shares would be shared with us too; asked for alone, it shows that it is taken.
    let alone = bind(listen, false)?;
    let listen = alone.local_addr()?.as_socket().unwrap_or(listen);
    let name = unix::net::SocketAddr::from_abstract_name(format!("concertina-up-{listen}"))?;
    let name = UnixListener::bind_addr(&name)?;
    drop(alone);
    let socket = bind(listen, true)?;
    Ok((listen, HeldPort { _socket: socket, _name: name }))
}

/// Whether nobody listens at this port, at any address.
pub(super) fn is_free(port: u16) -> bool {
    let bind = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        // What connections have left behind is in nobody's way.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
    };
    bind().is_ok()
}

/// Claims a network for these services.
pub(super) fn claim_network(services: &Services) -> anyhow::Result<(u8, UdpSocket)> {
    let mut last_error = None;
    for network in networks() {
        match claim(network, services) {
            Ok(socket) => return Ok((network, socket)),
            Err(error) => last_error = Some(error),
        }
    }
    let error = last_error.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(error).context(
        "no free loopback network: UDP port 7946 is taken at each of 127.10.0.1 to 127.250.0.1; a sidecar that listens at all \
         addresses (--bind 0.0.0.0:7946, the default) takes it everywhere",
    )
}

/// All of them, in the order in which they are tried.
fn networks() -> impl Iterator<Item = u8> {
    (NETWORK_FIRST..=*NETWORKS.end()).chain(*NETWORKS.start()..NETWORK_FIRST)
}

fn claim(network: u8, services: &Services) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, network, 0, 1), GOSSIP_PORT))?;
    // The nodes of a launcher that was killed are still there for a moment.
    let firsts = services.ids().map(|service| Kind::Of(service, 1));
    for kind in [Kind::Dns, Kind::Proxy].into_iter().chain(firsts) {
        UdpSocket::bind((kind.ip(network), GOSSIP_PORT))?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_free_while_nobody_listens_there_at_any_address() {
        for ip in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(127, 9, 9, 9)] {
            let listener = TcpListener::bind((ip, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(!is_free(port), "{ip}");
        }
        let free = (20_000..32_000).find(|port| is_free(*port)).unwrap();
        assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, free)).is_ok());
    }

    #[test]
    fn the_first_network_is_the_one_of_the_documents_and_each_is_tried_once() {
        let mut networks: Vec<u8> = networks().collect();
        assert_eq!(networks[..2], [89, 90]);
        networks.sort_unstable();
        assert!(networks.into_iter().eq(NETWORKS));
    }
}
