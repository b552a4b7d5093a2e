//! The twin through a client: retained, merged while offline, over restarts.

use device_sdk::twin::{Desired, Twin, TwinRunner};
use device_sdk::{Client, Incoming, PublishProperties, QoS};
use serde_json::{Value, json};

use super::tcp_peer::{Connection, Listener, soon};

async fn start(dir: &std::path::Path) -> (TwinRunner, Connection, Client) {
    let listener = Listener::new().await;
    let (client, _events) = Client::spawn(listener.options()).unwrap();
    let connection = listener.session(false).await;
    let twin = TwinRunner::new(client.clone(), "truck-7", Twin::open(dir).unwrap());
    (twin, connection, client)
}

async fn reported(connection: &mut Connection) -> Value {
    let publish = connection.publish().await;
    assert_eq!((&*publish.topic, publish.retain), ("dev/truck-7/state/reported", true));
    assert_eq!(publish.qos, QoS::AtLeastOnce);
    connection.puback(&publish).await;
    serde_json::from_slice(&publish.payload).unwrap()
}

fn wanted(topic: &str, document: &Value) -> Incoming {
    Incoming {
        topic: topic.to_owned(),
        payload: document.to_string().into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: false,
        properties: PublishProperties::default(),
        ack: None,
    }
}

#[tokio::test]
async fn what_is_wanted_is_done_reported_and_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (twin, mut connection, client) = start(dir.path()).await;
    assert!(twin.report(json!({ "interval_s": 10 })).await.unwrap());
    assert_eq!(reported(&mut connection).await, json!({ "interval_s": 10, "$version": 1 }));
    let wish = wanted("dev/truck-7/state/desired", &json!({ "interval_s": 30, "$version": 1 }));
    let delta = Some(json!({ "interval_s": 30 }));
    assert_eq!(twin.handle(&wish).await.unwrap(), Some(Desired::Taken { delta }));
    assert_eq!(reported(&mut connection).await["$desired"], 1);
    assert!(twin.report(json!({ "interval_s": 30 })).await.unwrap());
    let last = json!({ "interval_s": 30, "$version": 3, "$desired": 1 });
    assert_eq!(reported(&mut connection).await, last);
    let other = wanted("dev/truck-8/state/desired", &json!({}));
    assert_eq!(twin.handle(&other).await.unwrap(), None);
    soon("the state acknowledged", twin.settled()).await;
    drop(twin);
    client.disconnect().await.unwrap();

    // After a restart nothing is published that the broker has, and an old wish is refused.
    let (twin, mut connection, client) = start(dir.path()).await;
    assert_eq!(serde_json::from_slice::<Value>(&twin.document()).unwrap(), last);
    let old = wanted("dev/truck-7/state/desired", &json!({ "interval_s": 5, "$version": 0 }));
    assert!(matches!(twin.handle(&old).await.unwrap(), Some(Desired::Refused { .. })));
    twin.report(json!({ "door": "shut" })).await.unwrap();
    assert_eq!(reported(&mut connection).await["$version"], 4);
    drop(twin);
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn what_changes_before_the_connection_is_up_goes_out_as_one_document() {
    let dir = tempfile::tempdir().unwrap();
    let mut offline = Twin::open(dir.path()).unwrap();
    for speed in 0..50 {
        offline.report(json!({ "speed": speed })).unwrap();
    }
    drop(offline);
    let (twin, mut connection, client) = start(dir.path()).await;
    assert_eq!(reported(&mut connection).await, json!({ "speed": 49, "$version": 50 }));
    soon("the state acknowledged", twin.settled()).await;
    drop(twin);
    client.disconnect().await.unwrap();
}
