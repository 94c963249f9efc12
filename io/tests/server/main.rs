//! The server against real clients on real sockets, with a world that each test plays by hand.

mod contract;
mod encrypted;
mod exposure;
mod harness;
mod http;
mod metrics;
mod schema;
mod sessions;
mod socket;
