//! `serve` over a real socket, with signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use acdit_io::{Client, Event, Kind, Request, ServerMessage};

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

/// Status and body of a request.
pub(crate) fn ask(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let url = format!("http://{address}{path}");
    let output = Command::new("curl")
        .args(["-s", "-X", method, "-w", "\n%{http_code}", "--data-binary", body, &url])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The lines of a session's log, once its newest block is `block` or a later one.
pub(crate) fn log_up_to(address: &str, session: &str, block: u64) -> Vec<serde_json::Value> {
    loop {
        let (status, text) = ask(address, "GET", &format!("/api/sessions/{session}/log"), "");
        assert_eq!(status, 200, "{text}");
        let lines: Vec<serde_json::Value> = text.lines().map(json).collect();
        if newest(&lines).is_some_and(|newest| newest >= block) {
            return lines;
        }
    }
}

/// The last block of a log.
fn newest(lines: &[serde_json::Value]) -> Option<u64> {
    lines.iter().rfind(|line| line["type"] == "block")?["block"].as_u64()
}

#[tokio::test]
async fn sessions_are_begun_steered_forked_killed_and_continued() {
    let folder = Folder::with_world();
    let flags = ["--state", "state", "--max-sessions", "3"];
    let (mut server, address) = serve(&folder, &flags);
    let request = r#"{"unattended": true, "private": true, "label": "left", "seed": 5}"#;
    let (status, begun) = ask(&address, "POST", "/api/sessions", request);
    assert_eq!(status, 201, "{begun}");
    let begun = json(&begun);
    let (session, url) = (begun["session"].as_str().unwrap(), begun["ws"].as_str().unwrap());
    assert_eq!(url, format!("ws://{address}/ws/{session}"));
    let path = format!("/api/sessions/{session}");

    let first = log_up_to(&address, session, 3);
    assert_eq!((first[0]["type"].as_str(), first[0]["settings"]["seed"].as_u64()), (Some("start"), Some(5)));
    let mut client = Client::connect(url, Kind::Jpeg).await.unwrap();
    assert_eq!((client.state().seed, client.state().label), (5, 1));
    assert!(Client::connect(url, Kind::Jpeg).await.is_err(), "a private session has one viewer");
    let id = client.request(Request::Rewind { block: 1 }).await.unwrap();
    assert_eq!(client.applied(id).await.unwrap(), 1);
    let id = client.request(Request::Rewind { block: 99 }).await.unwrap();
    assert!(client.applied(id).await.unwrap_err().to_string().contains("can be gone back to"));
    let id = client.request(Request::Fork { block: 1 }).await.unwrap();
    let fork = loop {
        if let Event::Message(ServerMessage::Applied { id: to, block, session, .. }) =
            client.next().await.unwrap()
            && to == id
        {
            assert_eq!(block, 1);
            break session.unwrap();
        }
    };
    let (status, full) = ask(&address, "POST", "/api/sessions", "{}");
    assert_eq!((status, json(&full)["code"].as_str()), (429, Some("full")));
    client.close().await.unwrap();

    let second = folder.run(&["serve", "--weights", "world", "--port", "0", "--state", "state"]);
    assert!(
        second.code == Some(2) && second.stderr.contains("another server saves its sessions"),
        "{second:?}"
    );
    let (status, saved) = ask(&address, "POST", &format!("{path}/snapshot"), "");
    assert_eq!((status, json(&saved)["session"].as_str()), (201, Some(session)));
    assert_eq!(ask(&address, "GET", &format!("{path}/snapshot"), "").0, 200);
    let made = log_up_to(&address, session, json(&saved)["block"].as_u64().unwrap().max(3));
    let mut main = Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap();
    let id = main.request(Request::Pause).await.unwrap();
    main.applied(id).await.unwrap();
    assert_eq!(ask(&address, "POST", "/api/sessions/main/snapshot", "").0, 201);
    server.kill().unwrap();
    server.wait().unwrap();

    let (server, address) = serve(&folder, &flags);
    assert!(Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap().state().paused);
    let (_, listed) = ask(&address, "GET", "/api/sessions", "");
    let ids: Vec<String> =
        json(&listed).as_array().unwrap().iter().map(|s| s["session"].as_str().unwrap().to_owned()).collect();
    assert!(
        ids.len() == 3 && ["main", session, &fork].iter().all(|id| ids.iter().any(|i| i == id)),
        "{ids:?}"
    );
    let continued = log_up_to(&address, session, newest(&made).unwrap() + 1);
    assert_eq!(continued[..made.len()], made, "the same blocks once more, to the last bit");
    let rewound = made.iter().filter(|line| line["type"] == "block" && line["block"] == 2);
    let rewound: Vec<_> = rewound.map(|line| (&line["hash"], &line["batch"])).collect();
    assert!(rewound.len() == 2 && rewound[0] == rewound[1], "{rewound:?}");

    assert_eq!(ask(&address, "DELETE", &path, "").0, 204);
    let (status, gone) = ask(&address, "GET", &path, "");
    assert_eq!((status, json(&gone)["code"].as_str()), (404, Some("no_session")));
    for (body, status, words) in [
        (r#"{"label": "fly"}"#, 400, "this world has no"),
        (r#"{"label": 7}"#, 400, "below 3"),
        (r#"{"lable": 1}"#, 400, "unknown field"),
        ("[", 400, "EOF"),
        (r#"{"steps": 0}"#, 422, "steps"),
        (r#"{"steps": 51}"#, 422, "at most 50"),
        (r#"{"fork": {"session": "none", "block": 1}}"#, 404, "no such session"),
        (r#"{"fork": {"session": "main", "block": 99}}"#, 422, "can be gone back to"),
    ] {
        let (got, text) = ask(&address, "POST", "/api/sessions", body);
        assert!(
            got == status && json(&text)["error"].as_str().unwrap().contains(words),
            "{body}: {got} {text}"
        );
    }
    assert_eq!(ask(&address, "DELETE", "/api/sessions/main", "").0, 409);
    end(server, "-TERM");

    std::fs::write(folder.path("state").join(&fork).join("session.json"), "{").unwrap();
    let ran = folder.run(&[&["serve", "--weights", "world", "--port", "0"], &flags[..]].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(&fork) && ran.stderr.contains("session.json"), "{ran:?}");
}

#[test]
fn the_keyboard_ends_it_as_well_and_json_names_the_address() {
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &["--json"]);
    let output = Command::new("curl").args(["-s", &format!("http://{address}/readyz")]).output().unwrap();
    assert_eq!(output.stdout, b"ready\n");
    end(server, "-INT");
}
