//! The bridge between a real broker, a truck on the SDK and a person: alerts, a command, its receipt and result.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use broker::{Broker, RunningBroker, config::HostPort};
use device_sdk::{
    Client, Event, Events, Incoming, Message, Options, QoS,
    commands::{Actuator, Command, CommandJournal, CommandRunner},
};
use postrider_bridge::{
    Bridge, Config, Handle,
    config::{CommandRule, DevicePattern, FenceRule, VehicleRule},
};
use serde_json::Value;
use tracks::{Fix, LatLon, corridor::Corridor, fence::Circle, route::Polyline};

/// Nothing here takes long; a test that hangs must fail.
const PATIENCE: Duration = Duration::from_secs(30);
const START: LatLon = LatLon::new(60.17, 24.93);
const TRUCK: &str = "truck-7";

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn start_broker(dir: &Path) -> RunningBroker {
    let mut config = broker::Config::default();
    config.store.data_dir = dir.join("broker");
    config.mqtt.listen = HostPort::new("127.0.0.1", 0);
    config.http.enabled = false;
    Broker::start(config).unwrap()
}

fn config(dir: &Path, broker: &RunningBroker) -> Config {
    let mut config = Config::new(broker.mqtt_addr().unwrap().to_string(), "bridge", dir.join("bridge"));
    let end = START.destination(90.0, 500.0);
    config.vehicles = vec![VehicleRule {
        devices: DevicePattern::Exactly(TRUCK.into()),
        corridor: Some(Arc::new(Corridor::new(Polyline::new([START, end]).unwrap(), 50.0).unwrap())),
        fence: Some(FenceRule { name: "Depot".into(), area: Circle::new(end, 60.0).unwrap() }),
    }];
    config.commands = vec![CommandRule { name: "unlock".into(), ttl_s: 60 }];
    config
}

async fn start_bridge(config: &Config) -> Handle {
    let handle = Bridge::start(config.clone()).unwrap();
    within("the subscriptions of the bridge", handle.ready()).await;
    handle
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// A person in the conversation.
struct Person {
    client: Client,
    events: Events,
}

impl Person {
    async fn join(broker: &RunningBroker) -> Person {
        let (client, events) =
            Client::spawn(Options::new(broker.mqtt_addr().unwrap().to_string(), "alice")).unwrap();
        client.subscribe(&[("im/dispatch", QoS::AtLeastOnce)]).await.unwrap();
        Person { client, events }
    }

    async fn say(&self, text: &str) {
        self.client
            .publish(Message::new("im/dispatch", text.to_owned()).qos(QoS::AtLeastOnce))
            .await
            .unwrap();
    }

    /// Waits for the next message of the bridge.
    async fn hear(&mut self) -> (Value, Incoming) {
        loop {
            let event = within("a message", self.events.next()).await.unwrap();
            if let Event::Message(incoming) = event
                && let Ok(post) = serde_json::from_slice::<Value>(&incoming.payload)
            {
                return (post, incoming);
            }
        }
    }

    async fn hear_texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.hear().await.0["text"].as_str().unwrap().to_owned());
        }
        texts.sort();
        texts
    }
}

/// A lock that opens unless it was told not to.
struct Lock {
    refuses: Option<&'static str>,
}

impl Actuator for Lock {
    fn check(&mut self, _: &Command, _: u64) -> Result<(), String> {
        self.refuses.map_or(Ok(()), |why| Err(why.to_owned()))
    }

    fn execute(&mut self, _: &Command) -> Result<Value, String> {
        Ok(Value::Null)
    }
}

/// A truck that drives by hand and takes its commands.
struct Truck {
    client: Client,
    ts_ms: i64,
}

impl Truck {
    async fn start(broker: &RunningBroker, dir: &Path, refuses: Option<&'static str>) -> Truck {
        let options = Options::new(broker.mqtt_addr().unwrap().to_string(), TRUCK);
        let (client, mut events) = Client::spawn(options).unwrap();
        let journal = CommandJournal::open(&dir.join("truck")).unwrap();
        let mut runner = CommandRunner::new(client.clone(), TRUCK, journal, Lock { refuses });
        client.subscribe(&[(&runner.topic(), QoS::AtLeastOnce)]).await.unwrap();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Event::Message(incoming) = event {
                    runner.handle(&incoming).await.unwrap();
                }
            }
        });
        Truck { client, ts_ms: now_ms() - 100_000 }
    }

    /// One second and one fix further.
    async fn fix(&mut self, along_m: f64, beside_m: f64) {
        self.ts_ms += 1_000;
        let at = START.destination(90.0, along_m).destination(0.0, beside_m);
        let fix = Fix { hdop: Some(1.0), ..Fix::at(self.ts_ms, at) };
        let message = Message::new(format!("dev/{TRUCK}/telemetry/gps"), serde_json::to_vec(&fix).unwrap());
        self.client.publish(message.qos(QoS::AtLeastOnce)).await.unwrap();
    }

    async fn drive(&mut self, fixes: impl IntoIterator<Item = (f64, f64)>) {
        for (along_m, beside_m) in fixes {
            self.fix(along_m, beside_m).await;
        }
    }
}

fn leave() -> impl Iterator<Item = (f64, f64)> {
    (0..10).map(|i| (100.0, f64::from(i) * 18.0))
}

fn come_back() -> impl Iterator<Item = (f64, f64)> {
    (0..10).rev().map(|i| (100.0, f64::from(i) * 18.0))
}

#[tokio::test]
async fn a_truck_drives_a_person_sees_it_is_warned_and_unlocks_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_broker(dir.path());
    let bridge = start_bridge(&config(dir.path(), &broker)).await;
    let mut person = Person::join(&broker).await;
    let mut truck = Truck::start(&broker, dir.path(), None).await;

    truck.drive(leave()).await;
    let (post, incoming) = person.hear().await;
    assert_eq!((&post["kind"], &post["device"]), (&"route_deviation".into(), &TRUCK.into()));
    assert_eq!(incoming.user_property("im-id"), post["id"].as_str());
    assert_eq!((incoming.qos, incoming.seq()), (QoS::AtLeastOnce, Some(1)));
    truck.drive(come_back()).await;
    assert_eq!(person.hear().await.0["kind"], "back_on_route");
    truck.drive((0..27).map(|i| (100.0 + f64::from(i) * 16.0, 0.0))).await;
    let arrived = person.hear().await.0;
    assert_eq!((&arrived["kind"], &arrived["fence"]), (&"arrived".into(), &"Depot".into()));

    person.say("/unlock truck-7").await;
    let texts = person.hear_texts(2).await;
    let by = "(asked by anon:alice)";
    assert_eq!(texts, [format!("unlock delivered to truck-7 {by}"), format!("unlock done by truck-7 {by}")]);
    person.say("/lock truck-7").await;
    assert!(person.hear_texts(1).await[0].starts_with("unknown command /lock"));
    let counts = within("the end", bridge.stop()).await.unwrap();
    assert_eq!((counts.alerts, counts.commands, counts.dead_letters), (3, 1, 0));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_refuses_says_why_in_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_broker(dir.path());
    let bridge = start_bridge(&config(dir.path(), &broker)).await;
    let mut person = Person::join(&broker).await;
    let _truck = Truck::start(&broker, dir.path(), Some("the truck moves at 8.3 m/s")).await;
    person.say(r#"{"text": "/unlock truck-7"}"#).await;
    // The person's own JSON comes back too.
    let texts = person.hear_texts(3).await;
    let by = "(asked by anon:alice)";
    assert_eq!(texts[0], "/unlock truck-7");
    assert_eq!(texts[1], format!("unlock delivered to truck-7 {by}"));
    assert_eq!(texts[2], format!("unlock rejected by truck-7: the truck moves at 8.3 m/s {by}"));
    bridge.stop().await.unwrap();
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn what_happened_while_the_bridge_was_away_is_told_when_it_is_back_and_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_broker(dir.path());
    let config = config(dir.path(), &broker);
    let bridge = start_bridge(&config).await;
    let mut person = Person::join(&broker).await;
    let mut truck = Truck::start(&broker, dir.path(), None).await;
    truck.drive(leave()).await;
    assert_eq!(person.hear().await.0["kind"], "route_deviation");
    bridge.stop().await.unwrap();
    // The broker keeps the fixes and the command in the bridge's session.
    truck.drive(come_back()).await;
    person.say("/unlock truck-7").await;
    let bridge = start_bridge(&config).await;
    assert_eq!(person.hear().await.0["kind"], "back_on_route");
    assert_eq!(person.hear_texts(2).await.len(), 2);
    assert_eq!(bridge.stop().await.unwrap().alerts, 1);
    broker.stop().await.unwrap();
}
