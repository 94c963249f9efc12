//! The fuzz targets: what outside bytes meet first, each as a function that panics on nothing but a fault of ours.
//!
//! Two programs call them: the test `fuzz`, with the inputs in `corpus/`, and the libFuzzer binary in `fuzz/`, with whatever it
//! thinks of. Where an input is several files, a line of five equals signs stands between them.

mod clips;
mod files;
mod server;
mod sessions;
mod tiny;
mod wire;

/// A target; its corpus is the folder of its name.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const ALL: [Target; 18] = [
    ("client_message", wire::client_message),
    ("clip", clips::clip),
    ("config_file", files::config_file),
    ("event_log", sessions::event_log),
    ("headers", wire::headers),
    ("http", server::http),
    ("inject", wire::inject),
    ("packet", wire::packet),
    ("pt", files::pt),
    ("replay", sessions::replay),
    ("reply", clips::reply),
    ("safetensors", files::safetensors),
    ("server_message", wire::server_message),
    ("session_fields", wire::session_fields),
    ("snapshot", sessions::snapshot),
    ("splits", files::splits),
    ("websocket", server::websocket),
    ("world_folder", files::world_folder),
];

/// The files that an input is made of; missing ones are empty.
fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    const BETWEEN: &[u8] = b"\n=====\n";
    let mut rest = Some(bytes);
    std::array::from_fn(|_| {
        let here = rest.unwrap_or_default();
        match here.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
            Some(end) => {
                rest = Some(&here[end + BETWEEN.len()..]);
                &here[..end]
            }
            None => {
                rest = None;
                here
            }
        }
    })
}
