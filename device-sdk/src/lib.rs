//! The device library: sans-IO MQTT client, tokio driver, disk queue, commands
