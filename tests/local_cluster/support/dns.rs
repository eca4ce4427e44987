//! A small DNS client.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
};

use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE, rdata::RData};

use super::wait::DEADLINE;

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// The code of an answer, and its records in words: an address, `PORT TARGET` of a service, or a name.
pub(crate) type Answer = (RCODE, BTreeSet<String>);

/// Asks a server.
pub(crate) fn ask(server: SocketAddr, over: Over, name: &str, record_type: TYPE) -> Answer {
    let mut query = Packet::new_query(1);
    let question =
        Question::new(Name::new(name).unwrap(), QTYPE::TYPE(record_type), QCLASS::CLASS(CLASS::IN), false);
    query.questions.push(question);
    let query = query.build_bytes_vec().unwrap();
    let answer = match over {
        Over::Udp => exchange_datagrams(server, &query),
        Over::Tcp => exchange_by_stream(server, &query),
    };
    let answer = Packet::parse(&answer).unwrap();
    assert_eq!(answer.id(), 1);
    (answer.rcode(), answer.answers.iter().map(words).collect())
}

fn exchange_datagrams(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(server).unwrap();
    socket.send(query).unwrap();
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

/// RFC 1035 section 4.2.2: over TCP, the length comes first.
fn exchange_by_stream(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn words(record: &ResourceRecord<'_>) -> String {
    match &record.rdata {
        RData::A(a) => Ipv4Addr::from(a.address).to_string(),
        RData::SRV(srv) => format!("{} {}", srv.port, srv.target),
        RData::PTR(ptr) => ptr.0.to_string(),
        other => format!("{other:?}"),
    }
}
