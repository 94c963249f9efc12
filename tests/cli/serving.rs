//! `serve` over a real socket, with signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use acdit_io::{Client, Event, Kind, Request};

use crate::harness::Folder;

/// Starts a server on a free port; returns its address once it has printed it.
pub(crate) fn serve(folder: &Folder, more: &[&str]) -> (Child, String) {
    let words = [&["serve", "--weights", "world", "--port", "0"], more].concat();
    start(folder.command(&words))
}

/// Starts this server; returns its address once it has printed it.
pub(crate) fn start(mut command: Command) -> (Child, String) {
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (_, address) = line
        .trim_end()
        .split_once("http://")
        .unwrap_or_else(|| panic!("{line:?}: {}", words_of(&mut server)));
    let address = address.trim_end_matches("\"}").to_owned();
    (server, address)
}

pub(crate) fn words_of(server: &mut Child) -> String {
    let mut words = String::new();
    server.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    words
}

pub(crate) fn end(mut server: Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &server.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = server.wait().unwrap();
    assert_eq!((status.code(), words_of(&mut server)), (Some(0), String::new()), "{signal}");
}

#[tokio::test]
async fn a_viewer_steers_continues_a_clip_and_sees_the_server_end() {
    let folder = Folder::with_world();
    folder.clip("clip.mp4", 3.0);
    let (server, address) = serve(&folder, &["--seed", "11"]);
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap();
    let info = client.info();
    assert_eq!(
        (info.world.as_str(), info.weights.as_str(), info.window.mode.as_str()),
        ("tiny", "world", "windowed")
    );
    assert_eq!((info.frame.width, info.display.width), (256, 512));
    assert_eq!(info.labels.len(), 3);
    assert_eq!(client.state().seed, 11);

    let id = client.request(Request::Label { index: 2 }).await.unwrap();
    let block = client.applied(id).await.unwrap();
    loop {
        if let Event::Packet(packet) = client.next().await.unwrap()
            && packet.header.block >= block
        {
            assert!(packet.header.label == 2 && packet.header.generated, "{:?}", packet.header);
            break;
        }
    }

    let post = |name: &str| {
        let path = folder.path(name);
        let url = format!("http://{address}/api/clip");
        let body = format!("@{}", path.display());
        let output = Command::new("curl").args(["-s", "--data-binary", &body, &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(post("clip.mp4"), "{\"block\":0}");
    let (mut injected, mut generated) = (0, 0);
    while generated < 4 {
        if let Event::Packet(packet) = client.next().await.unwrap()
            && packet.header.generation == 1
        {
            assert!(packet.header.generated != packet.header.injected);
            injected += u32::from(packet.header.injected);
            generated += u32::from(packet.header.generated);
        }
    }
    assert_eq!(injected, 8, "the clip's frames come first");
    assert!(post("world/world.json").contains("not_a_video"));

    end(server, "-TERM");
    loop {
        match client.next().await {
            Ok(_) => {}
            Err(acdit_io::Error::Closed { code, .. }) => break assert_eq!(code, 1001),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn the_keyboard_ends_it_as_well_and_json_names_the_address() {
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &["--json"]);
    let output = Command::new("curl").args(["-s", &format!("http://{address}/readyz")]).output().unwrap();
    assert_eq!(output.stdout, b"ready\n");
    end(server, "-INT");
}
