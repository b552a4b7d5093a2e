//! What MQTT 3.1.1, MQTT 5.0 and the wire contract (docs/protocol.md) demand, asked of the running broker.
//!
//! Expectations come from the standards and the contract alone. Statements are cited by their MQTT 5.0 ids; ids
//! of the older standard have `(3.1.1)` behind them. `docs/spec/` lists them all.

mod adaptive_keepalive;
mod connect;
mod conversation;
mod flow_control;
mod keep_alive;
mod malformed;
mod malformed_connect;
mod message_properties;
mod presence;
mod qos1;
mod qos2;
mod receipts;
mod reserved_topics;
mod retained;
mod session;
mod shared_subscriptions;
mod spec_tables;
mod subscribe;
mod subscription_options;
mod takeover;
mod vectors;
mod web_socket;
mod will;
