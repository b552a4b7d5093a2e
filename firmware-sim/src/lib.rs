//! Seeded fleets of simulated trucks that run the real device SDK
