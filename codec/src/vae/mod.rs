//! stub
mod conv;
mod scaling;
pub mod tiny;
