//! The broker process: shard runtime, sockets, configuration, HTTP
