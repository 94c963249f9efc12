//! From clips on disk to what a training draws its windows from, with clips made by ffmpeg.
#![cfg(feature = "video")]

mod clips;
mod shards;
mod ucf101;
