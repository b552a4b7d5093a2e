//! The checks, each with topics and client ids of its own.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use crate::Args;
use crate::client::{Client, Settings, Version};

const VERSIONS: [(&str, Version); 2] = [("v3.1.1", Version::V3), ("v5", Version::V5)];

/// Runs one check if it is wanted, and says how it went.
macro_rules! check {
    ($run:expr, $name:expr, $check:expr) => {
        if $name.contains(&$run.args.only) {
            match $check.await {
                Ok(()) => println!("ok {}", $name),
                Err(error) => {
                    $run.good = false;
                    println!("FAIL {} {}", $name, format!("{error:#}").replace('\n', " "));
                }
            }
        }
    };
}

struct Run<'a> {
    args: &'a Args,
    good: bool,
}

/// Runs all checks that the command line's listener allows; returns whether all went well.
pub(crate) async fn run(args: &Args) -> bool {
    let mut run = Run { args, good: true };
    for (name, version) in VERSIONS {
        let of = With { args, name, version };
        for qos in 0..=2 {
            check!(run, format!("qos {qos} both ways ({name})"), of.qos_both_ways(qos));
        }
        check!(run, format!("retained set, replaced, cleared ({name})"), of.retained());
        check!(run, format!("will after a lost connection only ({name})"), of.will());
        for qos in 1..=2 {
            check!(
                run,
                format!("persistent session, qos {qos} offline ({name})"),
                of.persistent_session(qos)
            );
        }
        for qos in 0..=2 {
            check!(run, format!("256 KB payload, qos {qos} ({name})"), of.large_payload(qos));
        }
        check!(run, format!("shared subscription ({name})"), of.shared_subscription());
        if args.ca.is_some() {
            let strange = Args { ca: None, cert: None, key: None, ..args.clone() };
            check!(run, format!("no client that does not know the authority ({name})"), of.refused(&strange));
        }
        if args.cert.is_some() {
            let bare = Args { cert: None, key: None, ..args.clone() };
            check!(run, format!("no connection without a certificate ({name})"), of.refused(&bare));
        }
        if args.user.is_some() {
            let wrong = Args { password: Some("wrong".into()), ..args.clone() };
            check!(run, format!("no connection with a wrong password ({name})"), of.refused(&wrong));
            let nobody = Args { user: None, password: None, ..args.clone() };
            check!(run, format!("no connection without a user ({name})"), of.refused(&nobody));
        }
    }
    let of = With { args, name: "v5", version: Version::V5 };
    check!(run, "properties unaltered (v5)".to_owned(), of.properties());
    check!(run, "topic aliases of the broker (v5)".to_owned(), of.topic_aliases());
    if let Some(user) = &args.identity {
        check!(run, "the broker knows the user (v5)".to_owned(), of.identity(user));
    }
    run.good
}

/// Checks of one version.
#[derive(Clone, Copy)]
struct With<'a> {
    args: &'a Args,
    name: &'a str,
    version: Version,
}

impl With<'_> {
    fn settings(&self) -> Settings<'_> {
        Settings { args: self.args, version: self.version, clean: true, will: None, topic_alias_max: None }
    }

    async fn client(&self, id: &str) -> Result<Client> {
        Client::connect(&format!("rumqttc-{}-{id}", self.name), self.settings()).await
    }

    fn topic(&self, rest: &str) -> String {
        format!("rumqttc/{}/{rest}", self.name)
    }

    async fn qos_both_ways(self, qos: u8) -> Result<()> {
        let topic = self.topic(&format!("qos/{qos}"));
        let mut subscriber = self.client("s").await?;
        subscriber.subscribe(&topic, qos).await?;
        let mut publisher = self.client("p").await?;
        for n in 0..20 {
            publisher.publish(&topic, qos, false, format!("message {n}")).await?;
        }
        for n in 0..20 {
            subscriber.expect(&topic, &format!("message {n}"), qos, false).await?;
        }
        publisher.disconnect().await?;
        subscriber.disconnect().await
    }

    async fn retained(self) -> Result<()> {
        let topic = self.topic("retained");
        let mut publisher = self.client("p").await?;
        for (payload, seen) in [("first", Some("first")), ("second", Some("second")), ("", None)] {
            publisher.publish(&topic, 1, true, payload).await?;
            let mut subscriber = self.client("s").await?;
            subscriber.subscribe(&topic, 1).await?;
            if let Some(seen) = seen {
                subscriber.expect(&topic, seen, 1, true).await?;
            }
            // A live message comes after whatever a subscription is sent at its beginning.
            publisher.publish(&topic, 1, false, "live").await?;
            subscriber.expect(&topic, "live", 1, false).await?;
            subscriber.disconnect().await?;
        }
        publisher.disconnect().await
    }

    async fn will(self) -> Result<()> {
        let topic = self.topic("will");
        let mut witness = self.client("w").await?;
        witness.subscribe(&topic, 1).await?;
        let with = |payload| Settings { will: Some((&topic, payload)), ..self.settings() };
        let id = format!("rumqttc-{}-d", self.name);
        Client::connect(&id, with("gone")).await?.lose();
        witness.expect(&topic, "gone", 1, false).await?;
        Client::connect(&id, with("must not come")).await?.disconnect().await?;
        witness.publish(&topic, 1, false, "after").await?;
        witness.expect(&topic, "after", 1, false).await?;
        witness.disconnect().await
    }

    async fn persistent_session(self, qos: u8) -> Result<()> {
        let (topic, id) =
            (self.topic(&format!("session/{qos}")), format!("rumqttc-{}-session-{qos}", self.name));
        let durable = Settings { clean: false, ..self.settings() };
        let mut first = Client::connect(&id, durable.clone()).await?;
        ensure!(!first.session_present, "a session is present at first");
        first.subscribe(&topic, qos).await?;
        first.disconnect().await?;
        let mut publisher = self.client("p").await?;
        for n in 0..50 {
            publisher.publish(&topic, qos, false, format!("offline {n}")).await?;
        }
        publisher.disconnect().await?;
        let mut second = Client::connect(&id, durable).await?;
        ensure!(second.session_present, "no session is present when resumed");
        for n in 0..50 {
            second.expect(&topic, &format!("offline {n}"), qos, false).await?;
        }
        second.disconnect().await
    }

    async fn large_payload(self, qos: u8) -> Result<()> {
        let topic = self.topic(&format!("large/{qos}"));
        let mut client = self.client("large").await?;
        client.subscribe(&topic, qos).await?;
        let payload: Vec<u8> =
            (0..256 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        client.publish(&topic, qos, false, payload.clone()).await?;
        let got = client.next().await?;
        ensure!(got.payload == payload, "{} bytes came that were not sent so", got.payload.len());
        client.disconnect().await
    }

    async fn shared_subscription(self) -> Result<()> {
        let topic = self.topic("shared");
        let filter = format!("$share/rumqttc-{}/{topic}", self.name);
        let (mut one, mut two) = (self.client("m1").await?, self.client("m2").await?);
        one.subscribe(&filter, 1).await?;
        two.subscribe(&filter, 1).await?;
        let mut publisher = self.client("p").await?;
        for n in 0..40 {
            publisher.publish(&topic, 1, false, format!("{n:02}")).await?;
        }
        let mut got = Vec::new();
        while got.len() < 40 {
            let message = tokio::select! {
                message = one.next() => message?,
                message = two.next() => message?,
            };
            got.push(String::from_utf8(message.payload)?);
        }
        got.sort();
        ensure!(got == (0..40).map(|n| format!("{n:02}")).collect::<Vec<_>>(), "not each once: {got:?}");
        for client in [publisher, one, two] {
            client.disconnect().await?;
        }
        Ok(())
    }

    async fn properties(self) -> Result<()> {
        let topic = self.topic("properties");
        let mut client = self.client("properties").await?;
        client.subscribe(&topic, 1).await?;
        let sent = PublishProperties {
            payload_format_indicator: Some(1),
            response_topic: Some("answers/here".into()),
            correlation_data: Some(Bytes::from_static(&[0, 1])),
            user_properties: [("b", "2"), ("a", "1"), ("b", "3")].map(|(n, v)| (n.into(), v.into())).to_vec(),
            content_type: Some("text/plain".into()),
            ..PublishProperties::default()
        };
        client.publish_with(&topic, "hello", sent.clone()).await?;
        let Some(mut got) = client.next().await?.properties else { bail!("no properties came") };
        // The broker adds its own after them.
        got.user_properties.truncate(3);
        ensure!(got == sent, "sent {sent:?}, got {got:?}");
        client.disconnect().await
    }

    /// Whatever the broker uses of the aliases that it is allowed, each message's topic can be told.
    async fn topic_aliases(self) -> Result<()> {
        let settings = Settings { topic_alias_max: Some(2), ..self.settings() };
        let mut client = Client::connect("rumqttc-aliases", settings).await?;
        client.subscribe(&self.topic("alias/+"), 1).await?;
        let mut topics = HashMap::new();
        for n in 0..12 {
            let topic = self.topic(&format!("alias/{}", n % 3));
            client.publish(&topic, 1, false, "hello").await?;
            let got = client.next().await?;
            let alias = got.properties.and_then(|p| p.topic_alias);
            ensure!(alias.is_none_or(|alias| (1..=2).contains(&alias)), "alias {alias:?} was not allowed");
            let named = match (alias, got.topic.is_empty()) {
                (Some(alias), false) => topics.entry(alias).insert_entry(got.topic).get().clone(),
                (Some(alias), true) => topics.get(&alias).cloned().unwrap_or_default(),
                (None, _) => got.topic,
            };
            ensure!(named == topic, "message {n} on {topic} came as {named:?}, alias {alias:?}");
        }
        client.disconnect().await
    }

    async fn identity(self, user: &str) -> Result<()> {
        let topic = "im/rumqttc-identity";
        let mut client = self.client("identity").await?;
        client.subscribe(topic, 1).await?;
        client.publish(topic, 1, false, "who am I").await?;
        let properties = client.next().await?.properties.map(|p| p.user_properties).unwrap_or_default();
        let from = properties.iter().find(|(name, _)| name == "im-from").map(|(_, value)| &**value);
        ensure!(from == Some(user), "the broker tells others {from:?}, not {user:?}");
        client.disconnect().await
    }

    /// The client must not get in with these arguments.
    async fn refused(self, args: &Args) -> Result<()> {
        match Client::connect("rumqttc-refused", Settings { args, ..self.settings() }).await {
            Ok(_) => bail!("it was let in"),
            Err(_) => Ok(()),
        }
    }
}
