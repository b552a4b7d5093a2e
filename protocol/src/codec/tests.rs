//! Tests of the codec.

mod roundtrip;
mod strategies;
