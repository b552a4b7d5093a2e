//! The way to the broker over real sockets: addresses that do not answer, proxies, references to other servers, and what is
//! remembered.

use std::time::{Duration, Instant};

use device_sdk::{Client, ClientError, Event, Events, Ladder, Options, ReasonCode};
use protocol::{
    ConnAck, ConnAckProperties, ConnectProperties, Disconnect, DisconnectProperties, Packet, ProtocolVersion,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::model::connack;
use super::proxies;
use super::tcp_peer::{Connection, Listener, qos1, soon};

/// An address that answers nothing: its queue of new connections is full, so the system drops what else comes.
struct BlackHole {
    listener: TcpListener,
    _queued: Vec<tokio::task::JoinHandle<()>>,
}

impl BlackHole {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = move || async move {
            let _connection = TcpStream::connect(address).await;
            std::future::pending::<()>().await;
        };
        let queued = (0..4).map(|_| tokio::spawn(connect())).collect();
        // It is full when another one does not get through.
        while tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await.is_ok() {}
        Self { listener, _queued: queued }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }
}

fn refers(reason: ReasonCode, reference: &str) -> Packet {
    let properties =
        ConnAckProperties { server_reference: Some(reference.into()), ..ConnAckProperties::default() };
    Packet::ConnAck(Box::new(ConnAck { session_present: false, reason, properties }))
}

fn sends_away(reason: ReasonCode, reference: &str) -> Packet {
    let properties =
        DisconnectProperties { server_reference: Some(reference.into()), ..DisconnectProperties::default() };
    Packet::Disconnect(Disconnect { reason, properties: properties.into() })
}

/// Waits until the client is connected; returns the port by which it is.
async fn connected(client: &Client, events: &mut Events) -> u16 {
    for _ in 0..20 {
        if let Event::Connected { .. } = soon("an event", events.next()).await.expect("the client runs") {
            return client.endpoint().and_then(|endpoint| endpoint.port()).expect("a way in use");
        }
    }
    panic!("no connection");
}

async fn why(events: &mut Events) -> String {
    match soon("the failure", events.next()).await {
        Some(Event::Disconnected { why, .. } | Event::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_address_that_swallows_everything_delays_the_next_one_by_a_quarter_of_a_second() {
    let (hole, listener) = (BlackHole::new().await, Listener::new().await);
    let mut options = listener.options();
    options.reach.alternatives = vec![std::mem::replace(&mut options.address, hole.address())];
    let begin = Instant::now();
    let (client, mut events) = Client::spawn(options).unwrap();
    let _connection = listener.session(false).await;
    assert_eq!(connected(&client, &mut events).await, listener.port());
    let waited = begin.elapsed();
    // The exact time is checked on a virtual clock; the connection attempt's limit is 10 s.
    assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(client.endpoint().unwrap().to_string(), format!("mqtt://127.0.0.1:{}", listener.port()));
}

#[tokio::test]
async fn a_way_that_is_open_but_leads_to_no_broker_gives_way_to_the_next() {
    let (mute, listener) = (Listener::new().await, Listener::new().await);
    let mut options = Options { connect_timeout_ms: 300, ..mute.options() };
    options.reach.alternatives = vec![listener.options().address];
    let (client, mut events) = Client::spawn(options).unwrap();
    let (silent, _) = mute.accept().await;
    assert_eq!(why(&mut events).await, "no CONNACK came within 300 ms");
    let connection = listener.session(false).await;
    assert_eq!(connected(&client, &mut events).await, listener.port());
    drop((silent, connection));
    // The way that worked comes first from now on.
    let _connection = listener.session(true).await;
    assert_eq!(connected(&client, &mut events).await, listener.port());
}

#[tokio::test]
async fn a_ladder_is_climbed_down_to_the_step_that_answers() {
    let (closed, listener) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Listener::new().await);
    let closed_port = closed.local_addr().unwrap().port();
    drop(closed);
    // The second step is WebSocket, which this peer is not: it takes the connection and closes it.
    let mut options = Options { address: "mqtt://127.0.0.1".to_owned(), ..listener.options() };
    options.reach.ladder =
        Ladder { tcp_port: closed_port, web_socket_port: listener.port(), ..Ladder::default() };
    let (_client, mut events) = Client::spawn(options).unwrap();
    let head = soon("a request", listener.http_head()).await;
    assert!(head.starts_with("GET /mqtt HTTP/1.1\r\n"), "{head}");
    let why = why(&mut events).await;
    assert!(why.contains(&format!("mqtt://127.0.0.1:{closed_port}: Connection refused")), "{why}");
    assert!(why.contains(&format!("ws://127.0.0.1:{}/mqtt: ", listener.port())), "{why}");
}

#[tokio::test]
async fn connections_go_through_proxies_that_look_the_name_up() {
    let listener = Listener::new().await;
    let broker = listener.options().address;
    let (http, http_asked) = proxies::http(broker.clone()).await;
    let (open, open_asked) = proxies::socks(broker.clone(), false).await;
    let (closed, closed_asked) = proxies::socks(broker, true).await;
    for (proxy, asked) in [
        (format!("http://truck:open%20sesame@{http}"), http_asked),
        (format!("socks5h://{open}"), open_asked),
        (format!("socks5://truck:open%20sesame@{closed}"), closed_asked),
    ] {
        for (address, target) in [
            ("mqtt://broker.test:1883", "broker.test:1883"),
            ("10.1.2.3:1883", "10.1.2.3:1883"),
            ("[2001:db8::1]:1883", "2001:db8::1:1883"),
        ] {
            let mut options = Options { address: address.to_owned(), ..listener.options() };
            options.reach.proxy = Some(proxy.parse().unwrap());
            let (client, _events) = Client::spawn(options).unwrap();
            let mut connection = listener.session(false).await;
            let publishing = tokio::spawn(async move { client.publish(qos1("through")).await });
            let publish = connection.publish().await;
            connection.puback(&publish).await;
            soon("the publish", publishing).await.unwrap().unwrap();
            let last = asked.all().pop().unwrap();
            assert_eq!(last.replace(['[', ']'], ""), target, "{proxy}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_says_why_and_no_password_is_told() {
    let listener = Listener::new().await;
    let broker = listener.options().address;
    let (http, _) = proxies::http(broker.clone()).await;
    let (open, _) = proxies::socks(broker.clone(), false).await;
    let (closed, _) = proxies::socks(broker, true).await;
    for (proxy, address, expected) in [
        (format!("http://{http}"), "b.test:1", "it wants a user name and password"),
        (format!("http://truck:hunter2@{http}"), "b.test:1", "refused the user name or password"),
        (format!("socks5://{closed}"), "b.test:1", "it wants a user name and password"),
        (format!("socks5://truck:hunter2@{closed}"), "b.test:1", "refused the user name or password"),
        (
            format!("socks5://{open}"),
            "forbidden.test:1",
            "no connection to forbidden.test:1: not allowed by its rules",
        ),
    ] {
        let mut options = Options { address: address.to_owned(), ..listener.options() };
        options.reach.proxy = Some(proxy.parse().unwrap());
        let (_client, mut events) = Client::spawn(options).unwrap();
        let why = why(&mut events).await;
        assert!(why.contains(expected) && why.contains("proxy ") && !why.contains("hunter2"), "{why}");
    }
}

#[tokio::test]
async fn a_reference_to_another_server_is_followed_at_once_in_connack_and_disconnect() {
    let (home, other) = (Listener::new().await, Listener::new().await);
    let (client, mut events) = Client::spawn(home.options()).unwrap();
    let (mut connection, _) = home.accept().await;
    let reference = other.options().address;
    connection.send(refers(ReasonCode::UseAnotherServer, &reference)).await;
    match soon("the refusal", events.next()).await {
        Some(Event::Refused { reason: ReasonCode::UseAnotherServer, why, retry_in_ms: 0 }) => {
            assert!(why.ends_with(&format!("; going to mqtt://{reference}")), "{why}");
        }
        event => panic!("{event:?}"),
    }
    let mut connection = other.session(false).await;
    assert_eq!(connected(&client, &mut events).await, other.port());
    connection.send(sends_away(ReasonCode::UseAnotherServer, &home.options().address)).await;
    assert!(why(&mut events).await.contains("going to mqtt://"));
    let _connection = home.session(false).await;
    assert_eq!(connected(&client, &mut events).await, home.port());
}

#[tokio::test]
async fn a_server_that_moved_is_found_after_a_restart_and_the_way_home_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let (home, new) = (Listener::new().await, Listener::new().await);
    let mut options = home.options();
    options.reach.memory_file = Some(dir.path().join("reach.json"));
    let (client, mut events) = Client::spawn(options.clone()).unwrap();
    let (mut connection, _) = home.accept().await;
    connection.send(refers(ReasonCode::ServerMoved, &new.options().address)).await;
    let connection = new.session(false).await;
    assert_eq!(connected(&client, &mut events).await, new.port());
    soon("the end", client.disconnect()).await.unwrap();
    drop(connection);

    let (client, mut events) = Client::spawn(options.clone()).unwrap();
    let connection = new.session(false).await;
    assert_eq!(connected(&client, &mut events).await, new.port());
    soon("the end", client.disconnect()).await.unwrap();
    drop((connection, new));

    // It is gone, and the first one is back.
    let (client, mut events) = Client::spawn(options).unwrap();
    let _connection = home.session(false).await;
    assert_eq!(connected(&client, &mut events).await, home.port());
}

#[tokio::test]
async fn servers_that_refer_to_each_other_are_left_after_a_few_rounds() {
    let (one, two) = (Listener::new().await, Listener::new().await);
    let (_client, mut events) = Client::spawn(one.options()).unwrap();
    let mut pauses = Vec::new();
    for round in 0..10 {
        // Four are followed; then comes a pause, and home is tried.
        let (from, to) = if round % 5 % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let (mut connection, _) = from.accept().await;
        connection.send(refers(ReasonCode::UseAnotherServer, &to.options().address)).await;
        match soon("the refusal", events.next()).await {
            Some(Event::Refused { retry_in_ms, .. }) => pauses.push(retry_in_ms > 0),
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(pauses, [false, false, false, false, true, false, false, false, false, true]);
}

#[tokio::test]
async fn another_network_begins_a_new_connection_by_the_way_that_worked_there() {
    let (one, two) = (Listener::new().await, Listener::new().await);
    let mut options = one.options();
    options.reach.alternatives = vec![two.options().address];
    options.user_properties = vec![("im-net".to_owned(), "depot".to_owned())];
    let (client, mut events) = Client::spawn(options).unwrap();
    let network = |connect: &ConnectProperties| connect.user_properties[0].1.to_string();
    let accept = |mut connection: Connection| async move {
        connection.send(connack(true, ConnAckProperties::default())).await;
        connection
    };
    let (connection, connect) = one.accept().await;
    assert_eq!((connect.version, network(&connect.properties)), (ProtocolVersion::V5, "depot".to_owned()));
    let _at_the_depot = accept(connection).await;
    assert_eq!(connected(&client, &mut events).await, one.port());

    // On the road the first broker cannot be used.
    soon("the hand-over", client.set_network("lte")).await.unwrap();
    assert_eq!(why(&mut events).await, "the network is \"lte\" now");
    let (mut refusing, connect) = one.accept().await;
    assert_eq!(
        (network(&connect.properties), connect.properties.user_properties.len()),
        ("lte".to_owned(), 1)
    );
    let refusal = ConnAck {
        session_present: false,
        reason: ReasonCode::ServerUnavailable,
        properties: ConnAckProperties::default(),
    };
    refusing.send(Packet::ConnAck(Box::new(refusal))).await;
    let _on_the_road = accept(two.accept().await.0).await;
    assert_eq!(connected(&client, &mut events).await, two.port());

    for (name, listener) in [("depot", &one), ("lte", &two), ("depot", &one)] {
        soon("the hand-over", client.set_network(name)).await.unwrap();
        let _connection = accept(listener.accept().await.0).await;
        assert_eq!(connected(&client, &mut events).await, listener.port(), "{name}");
    }
    let error = client.set_network(&"x".repeat(65)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Limit { what } if what.contains("65 bytes")), "{error}");
}

#[tokio::test]
async fn a_new_connection_on_demand_says_goodbye_and_comes_at_once() {
    let listener = Listener::new().await;
    let mut options = listener.options();
    options.backoff.min_ms = 600_000;
    options.backoff.max_ms = 600_000;
    let (client, mut events) = Client::spawn(options).unwrap();
    let mut connection = listener.session(false).await;
    connected(&client, &mut events).await;
    soon("the hand-over", client.reconnect()).await.unwrap();
    assert!(matches!(connection.try_packet().await, Some(Packet::Disconnect(_))));
    let connection = listener.session(true).await;
    // Its pause is cut short too.
    drop(connection);
    loop {
        if let Some(Event::Disconnected { retry_in_ms: 1.., .. }) = soon("the end", events.next()).await {
            break;
        }
    }
    soon("the hand-over", client.reconnect()).await.unwrap();
    let _connection = listener.session(true).await;
}
