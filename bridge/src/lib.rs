//! Telemetry to people: track rules, alerts to conversations and webhooks, commands back
