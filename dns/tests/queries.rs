//! Questions over real sockets to a server that follows a sidecar over a real feed.

mod support;

use std::collections::BTreeSet;

use feed::{Endpoint, EndpointState};
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{DNSClass, RData, RecordType},
};
use support::{
    Cluster, data, endpoint, question, question_with_edns, raw_upstream, read_message, upstream,
    write_message,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

async fn app_cluster() -> Cluster {
    let mut cluster = Cluster::start(&[]).await;
    let apps = vec![endpoint("app1", "10.0.0.1:8080"), endpoint("app2", "10.0.0.2:8081")];
    cluster.publish("app", apps).await;
    cluster
}

fn big_role() -> Vec<Endpoint> {
    (0..500).map(|i| endpoint(&format!("n{i}"), &format!("10.1.{}.{}:80", i / 250, i % 250))).collect()
}

fn code(reply: &Message) -> ResponseCode {
    reply.metadata.response_code
}

fn assert_negative(reply: &Message, expected: ResponseCode) {
    assert_eq!((code(reply), reply.answers.len()), (expected, 0));
    let [soa] = reply.authorities.as_slice() else { panic!("a SOA: {reply:?}") };
    assert!(matches!(&soa.data, RData::SOA(soa) if soa.minimum == 0), "{soa:?}");
}

#[tokio::test]
async fn nodes_and_roles_are_answered_bare_under_the_zone_and_in_any_case() {
    let cluster = app_cluster().await;
    for name in
        ["app.", "app.concertina.internal.", "app.service.concertina.internal.", "APP.", "app.service."]
    {
        let reply = cluster.ask(name, RecordType::A).await;
        assert_eq!(data(&reply.answers), ["10.0.0.1", "10.0.0.2"], "{name}");
        assert!(reply.answers.iter().all(|record| record.ttl == 0 && record.name.to_ascii() == name));
        let metadata = reply.metadata;
        assert!(metadata.authoritative && metadata.recursion_available && metadata.recursion_desired);
    }
    for name in ["app2.", "App2.Concertina.Internal.", "app2.node.concertina.internal.", "app2.node."] {
        assert_eq!(data(&cluster.ask(name, RecordType::A).await.answers), ["10.0.0.2"], "{name}");
    }
}

#[tokio::test]
async fn the_order_of_addresses_changes() {
    let cluster = app_cluster().await;
    let mut firsts = BTreeSet::new();
    // One in 2^63 runs sees only one order in 64 answers.
    for _ in 0..64 {
        firsts.insert(cluster.ask("app.", RecordType::A).await.answers[0].data.to_string());
    }
    assert_eq!(firsts.len(), 2);
}

#[tokio::test]
async fn srv_brings_ports_and_the_addresses_of_its_targets() {
    let cluster = app_cluster().await;
    for name in ["_app._tcp.", "_app._tcp.concertina.internal."] {
        let reply = cluster.ask(name, RecordType::SRV).await;
        let expected = ["0 100 8080 app1.concertina.internal.", "0 100 8081 app2.concertina.internal."];
        assert_eq!(data(&reply.answers), expected);
        assert_eq!(data(&reply.additionals), ["10.0.0.1", "10.0.0.2"]);
    }
    let gossip = cluster.ask("_gossip._udp.concertina.internal.", RecordType::SRV).await;
    assert_eq!(gossip.answers.len(), 3);
}

#[tokio::test]
async fn an_address_has_the_name_of_its_node() {
    let reply = app_cluster().await.ask("1.0.0.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(data(&reply.answers), ["app1.concertina.internal."]);
}

#[tokio::test]
async fn aaaa_of_a_v4_name_is_no_data_and_an_unknown_name_does_not_exist() {
    let mut cluster = app_cluster().await;
    cluster.publish("idle", vec![]).await;
    for name in ["app.", "app1.concertina.internal.", "idle."] {
        assert_negative(&cluster.ask(name, RecordType::AAAA).await, ResponseCode::NoError);
    }
    assert_negative(&cluster.ask("idle.", RecordType::A).await, ResponseCode::NoError);
    for name in ["nobody.", "nobody.concertina.internal.", "example.com.", "9.9.9.9.in-addr.arpa."] {
        assert_negative(&cluster.ask(name, RecordType::A).await, ResponseCode::NXDomain);
    }
}

#[tokio::test]
async fn a_change_is_visible_as_soon_as_it_is_receipted() {
    let mut cluster = app_cluster().await;
    let leaving = Endpoint { state: EndpointState::Draining, ..endpoint("app1", "10.0.0.1:8080") };
    cluster.publish("app", vec![leaving, endpoint("app3", "10.0.0.3:8080")]).await;
    assert_eq!(data(&cluster.ask("app.", RecordType::A).await.answers), ["10.0.0.3"]);
    assert_negative(&cluster.ask("app1.", RecordType::A).await, ResponseCode::NXDomain);
    cluster.publish("app", vec![]).await;
    assert_negative(&cluster.ask("app.", RecordType::A).await, ResponseCode::NoError);
}

#[tokio::test]
async fn nothing_that_may_be_ours_is_said_not_to_exist_before_the_sidecar_knows_the_cluster() {
    let mut cluster = Cluster::start_untold(&[]).await;
    assert_eq!(data(&cluster.ask("dnsserver.", RecordType::A).await.answers), ["127.0.0.1"]);
    let names = ["app.", "app.concertina.internal.", "_app._tcp.", "app.service.", "1.0.0.10.in-addr.arpa."];
    for name in names {
        assert_eq!(code(&cluster.ask(name, RecordType::A).await), ResponseCode::ServFail, "{name}");
    }
    assert_negative(&cluster.ask("example.com.", RecordType::A).await, ResponseCode::NXDomain);
    cluster.say_synced().await;
    for name in names {
        assert_negative(&cluster.ask(name, RecordType::A).await, ResponseCode::NXDomain);
    }
}

#[tokio::test]
async fn names_with_names_below_them_exist() {
    let cluster = app_cluster().await;
    for name in ["service.concertina.internal.", "node.", "_tcp.", "internal.", "10.in-addr.arpa.", "arpa."] {
        assert_negative(&cluster.ask(name, RecordType::A).await, ResponseCode::NoError);
    }
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_truncated_and_complete_over_tcp() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.publish("big", big_role()).await;
    for (record_type, name) in [(RecordType::A, "big."), (RecordType::SRV, "_big._tcp.")] {
        let offering = question_with_edns(name, record_type, 4096);
        let bytes = cluster.exchange(&offering.to_vec().unwrap()).await;
        let reply = Message::from_vec(&bytes).unwrap();
        assert!((1100..=1232).contains(&bytes.len()), "{}", bytes.len());
        assert!(reply.metadata.truncation && reply.edns.is_some() && !reply.answers.is_empty());

        let plain = question(name, record_type);
        let bytes = cluster.exchange(&plain.to_vec().unwrap()).await;
        assert!((400..=512).contains(&bytes.len()), "{}", bytes.len());
        assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);

        let complete = cluster.ask_over_tcp(&offering).await;
        assert_eq!((complete.answers.len(), complete.metadata.truncation), (500, false));
        assert_eq!(data(&complete.answers).iter().collect::<BTreeSet<_>>().len(), 500);
    }
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_was_asked() {
    // A connected socket hears only whom it asked.
    for (listen, asked) in [
        ("0.0.0.0:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.53.4"),
        ("[::]:0", "::1"),
        ("[::]:0", "127.0.53.4"),
        ("127.0.53.4:0", "127.0.53.4"),
    ] {
        let mut cluster = Cluster::start_on(listen, &[upstream().await]).await;
        cluster.addr.set_ip(asked.parse().unwrap());
        cluster.say_synced().await;
        for name in ["dnsserver.", "example.com."] {
            assert_eq!(cluster.ask(name, RecordType::A).await.answers.len(), 1, "{listen}, asked at {asked}");
        }
    }
}

#[tokio::test]
async fn the_idlest_of_too_many_connections_of_a_source_is_closed() {
    let cluster = app_cluster().await;
    let mut first = TcpStream::connect(cluster.addr).await.unwrap();
    let asked = question("app.", RecordType::A);
    write_message(&mut first, &asked).await;
    assert_eq!(read_message(&mut first).await.answers.len(), 2);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(cluster.addr).await.unwrap());
    }
    // Long before its time is up.
    let closed = tokio::time::timeout(std::time::Duration::from_secs(3), first.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    assert_eq!(cluster.ask_over_tcp(&asked).await.answers.len(), 2);
}

#[tokio::test]
async fn edns_is_answered_in_kind() {
    let cluster = app_cluster().await;
    let mut offering = question_with_edns("app.", RecordType::A, 1000);
    offering.edns.as_mut().unwrap().set_dnssec_ok(true);
    let edns = cluster.ask_over_udp(&offering).await.edns.unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1000, true));
    assert_eq!(cluster.ask("app.", RecordType::A).await.edns, None);

    offering.edns.as_mut().unwrap().set_version(1);
    let reply = cluster.ask_over_udp(&offering).await;
    // 16 is BADVERS in an answer with OPT, and BADSIG elsewhere: the parser cannot know.
    assert_eq!(u16::from(code(&reply)), u16::from(ResponseCode::BADVERS));
    assert_eq!(reply.edns.unwrap().version(), 0);
}

#[tokio::test]
async fn what_is_no_plain_question_is_declined() {
    let cluster = app_cluster().await;
    let mut notify = question("app.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut two = question("app.", RecordType::A);
    two.add_query(question("app1.", RecordType::A).queries[0].clone());
    for (question, expected) in [
        (notify, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (two, ResponseCode::FormErr),
        (question("concertina.internal.", RecordType::AXFR), ResponseCode::Refused),
    ] {
        assert_eq!(code(&cluster.ask_over_udp(&question).await), expected);
    }
    let any = cluster.ask("app.", RecordType::ANY).await;
    assert!(matches!(any.answers.as_slice(), [record] if record.record_type() == RecordType::HINFO));
}

#[tokio::test]
async fn malformed_messages_leave_the_server_answering() {
    let cluster = app_cluster().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let whole = question("app.", RecordType::A).to_vec().unwrap();
    let mut no_text = whole.clone();
    no_text[13] = 0xFF;
    let mut pointing_at_itself = whole[..12].to_vec();
    pointing_at_itself.extend([0xC0, 12, 0, 1, 0, 1]);
    let reply = question("app.", RecordType::A).into_response().to_vec().unwrap();
    let cut = &whole[..whole.len() - 3];
    for bytes in [&[][..], &[0; 5], &[0xFF; 40], cut, &no_text, &pointing_at_itself, &reply] {
        socket.send_to(bytes, cluster.addr).await.unwrap();
    }
    let mut stream = TcpStream::connect(cluster.addr).await.unwrap();
    stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    // A message too short to be answered does not end the connection.
    write_message(&mut stream, &question("app.", RecordType::A)).await;
    assert_eq!(read_message(&mut stream).await.answers.len(), 2);
    assert_eq!(cluster.ask("app.", RecordType::A).await.answers.len(), 2);
}

#[tokio::test]
async fn a_silent_tcp_client_does_not_hold_up_the_others() {
    let cluster = app_cluster().await;
    let mut silent = TcpStream::connect(cluster.addr).await.unwrap();
    silent.write_all(&[0]).await.unwrap();
    let reply = cluster.ask_over_tcp(&question("app.", RecordType::A)).await;
    assert_eq!(reply.answers.len(), 2);
    // It is closed once it has been silent for too long.
    assert!(matches!(silent.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn other_names_are_forwarded_and_ours_are_not() {
    let cluster = Cluster::start(&[upstream().await]).await;
    let reply = cluster.ask_over_udp(&question_with_edns("Example.com.", RecordType::A, 4096)).await;
    assert_eq!(data(&reply.answers), ["192.0.2.0"]);
    assert_eq!(reply.answers[0].ttl, 300);
    assert_eq!(reply.queries[0].name().to_ascii(), "Example.com.");
    assert!(reply.metadata.recursion_available && reply.edns.unwrap().max_payload() == 1232);
    for name in ["nobody.", "nobody.concertina.internal.", "_nobody._tcp."] {
        assert_negative(&cluster.ask(name, RecordType::A).await, ResponseCode::NXDomain);
    }
}

#[tokio::test]
async fn forwarding_keeps_the_transport_and_the_truncation() {
    let cluster = Cluster::start(&[upstream().await]).await;
    let asked = question("example.com.", RecordType::TXT);
    assert!(cluster.ask_over_udp(&asked).await.metadata.truncation);
    assert_eq!(cluster.ask_over_tcp(&asked).await.answers.len(), 100);
}

#[tokio::test]
async fn a_long_answer_to_a_client_without_edns_is_truncated_and_a_strange_one_passes_as_it_is() {
    let records = |question: &[u8], records: &[u8]| {
        let mut reply = question.to_vec();
        reply[2] |= 0x80;
        reply[7] = 1;
        reply.extend_from_slice(records);
        reply
    };
    let asked = question("Example.com.", RecordType::A).to_vec().unwrap();
    for (length, truncated) in
        [(0, false), (512 - asked.len(), false), (513 - asked.len(), true), (9000, true)]
    {
        // No record that any parser knows.
        let server = raw_upstream(move |question| records(&question, &vec![0xFF; length])).await;
        let reply = Cluster::start(&[server]).await.exchange(&asked).await;
        assert_eq!(&reply[..2], &asked[..2]);
        assert_eq!(&reply[12..asked.len()], &asked[12..]);
        assert_eq!(reply[2] & 2 != 0, truncated, "{length}");
        let kept = if truncated { (0, 0) } else { (1, length) };
        assert_eq!((reply[7], reply.len() - asked.len()), kept, "{length}");
    }
}

#[tokio::test]
async fn strangers_hear_of_the_zone_and_are_refused_the_rest() {
    let cluster = Cluster::start(&[upstream().await]).await;
    let stranger = UdpSocket::bind("127.0.53.6:0").await.unwrap();
    for (name, expected) in [("example.com.", ResponseCode::Refused), ("dnsserver.", ResponseCode::NoError)] {
        stranger.send_to(&question(name, RecordType::A).to_vec().unwrap(), cluster.addr).await.unwrap();
        let mut bytes = [0; 512];
        let length = stranger.recv(&mut bytes).await.unwrap();
        assert_eq!(code(&Message::from_vec(&bytes[..length]).unwrap()), expected, "{name}");
    }
    assert_eq!(code(&cluster.ask("example.com.", RecordType::A).await), ResponseCode::NoError);
}

#[tokio::test]
async fn a_forwarder_that_is_not_there_is_a_server_failure() {
    // An address of its own, so that no other test listens there meanwhile.
    let closed = UdpSocket::bind("127.0.53.3:0").await.unwrap().local_addr().unwrap();
    let cluster = Cluster::start(&[closed]).await;
    assert_eq!(code(&cluster.ask("example.com.", RecordType::A).await), ResponseCode::ServFail);
}
