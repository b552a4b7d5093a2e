//! Whole-system tests: the architecture's rules, the tree's tidiness, and the broker from outside.
//!
//! One binary, so that it links once. `conformance` speaks raw MQTT to the broker and cites the statement that
//! each test proves; `e2e` runs the binary as users do, with foreign clients, crashes and broken disks.

mod architecture;
mod broker_process;
mod conformance;
mod e2e;
mod fuzzing;
mod raw_client;
mod simulation;
mod tidy;
mod transport;
mod web_socket;
