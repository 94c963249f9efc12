//! Films of what `serve` showed, and `replay`, which computes them again.

use std::process::Command;

use acdit_codec::Size;
use acdit_codec::video::{DecodeOptions, Limits, decode};
use acdit_io::{Client, Error, Event, Kind, Recording, Request, ServerMessage, State};
use serde_json::{Value, json};

use crate::harness::{FPS, Folder, SIDE};
use crate::serving::{ask, end, json, log_up_to, serve, words_of};

/// Frames of a film, of the world's own size.
fn frames(folder: &Folder, name: &str) -> usize {
    let size = Size { width: SIDE, height: SIDE };
    let options = DecodeOptions { size, frames_per_second: FPS, limits: Limits::FILE };
    decode(folder.path(name), &options).unwrap().frames.len()
}

async fn state(client: &mut Client, wanted: impl Fn(&State) -> bool) -> State {
    loop {
        if let Event::Message(ServerMessage::State(state)) = client.next().await.unwrap()
            && wanted(&state)
        {
            return state;
        }
    }
}

async fn applied(client: &mut Client, request: Request) -> u64 {
    let id = client.request(request).await.unwrap();
    client.applied(id).await.unwrap()
}

async fn refused(client: &mut Client, request: Request) -> String {
    let id = client.request(request).await.unwrap();
    match client.applied(id).await.unwrap_err() {
        Error::Refused { code, .. } => code,
        other => panic!("{other}"),
    }
}

fn get(address: &str, path: &str) -> Value {
    let (status, text) = ask(address, "GET", path, "");
    assert_eq!(status, 200, "{text}");
    json(&text)
}

#[tokio::test]
async fn a_film_holds_what_was_shown_and_its_log_computes_it_again() {
    let folder = Folder::with_lively_world();
    let flags = ["--recordings", "films", "--dtype", "f32", "--seed", "5"];
    let (server, address) = serve(&folder, &flags);
    let url = format!("ws://{address}/ws");
    let mut client = Client::connect(&url, Kind::Jpeg).await.unwrap();
    state(&mut client, |state| state.block > 1).await;
    assert_eq!(refused(&mut client, Request::Record { on: false }).await, "not_recording");
    let first = applied(&mut client, Request::Record { on: true }).await;
    let recording = Some(Recording { name: "main-1".into(), since: first });
    assert_eq!(state(&mut client, |state| state.recording.is_some()).await.recording, recording);
    assert_eq!(refused(&mut client, Request::Record { on: true }).await, "recording");
    let listed = get(&address, "/api/recordings");
    assert_eq!((&listed[0]["name"], &listed[0]["open"]), (&json!("main-1"), &json!(true)), "{listed}");

    applied(&mut client, Request::Label { index: 2 }).await;
    state(&mut client, |state| state.block > first + 3).await;
    let late = Client::connect(&url, Kind::H264).await.unwrap();
    applied(&mut client, Request::Pause).await;
    let back = applied(&mut client, Request::Rewind { block: first + 1 }).await;
    assert_eq!(back, first + 1);
    applied(&mut client, Request::Sampling { steps: Some(3), guidance: None }).await;
    applied(&mut client, Request::Resume).await;
    late.close().await.unwrap();
    client.close().await.unwrap();
    // Nobody watches any more, and it goes on.
    log_up_to(&address, "main", first + 8);
    let mut client = Client::connect(&url, Kind::H264).await.unwrap();
    assert_eq!((client.state().recording.clone(), client.state().sampling.steps), (recording, 3));
    applied(&mut client, Request::Restart { seed: Some(9) }).await;
    state(&mut client, |state| state.generation == 2 && state.block > 2).await;
    let next = applied(&mut client, Request::Record { on: false }).await;
    assert!(next > 0);
    state(&mut client, |state| state.recording.is_none()).await;

    let listed = get(&address, "/api/recordings");
    let expected = json!({ "name": "main-1", "session": "main", "blocks": [first, next], "open": false });
    let mut without_bytes = listed[0].clone();
    let bytes = without_bytes.as_object_mut().unwrap().remove("bytes").unwrap().as_u64().unwrap();
    assert_eq!((without_bytes, listed.as_array().unwrap().len()), (expected, 1));
    let fetched = |path: &str| {
        Command::new("curl").args(["-s", &format!("http://{address}{path}")]).output().unwrap().stdout
    };
    let film = fetched("/api/recordings/main-1.mp4");
    assert_eq!(film.len() as u64, bytes);
    assert_eq!(film, std::fs::read(folder.path("films/main-1.mp4")).unwrap());
    let sidecar = get(&address, "/api/recordings/main-1.json");
    let runs = sidecar["film"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| &run["turn"]).collect::<Vec<_>>(), [0, 1, 2], "{runs:?}");
    assert_eq!(runs[1]["blocks"][0], first + 1);
    assert_eq!(runs[2]["blocks"], json!([0, next]));
    assert_eq!((sidecar["version"].as_u64(), sidecar["world"].as_str()), (Some(1), Some("tiny")));
    let blocks: u64 =
        runs.iter().map(|run| run["blocks"][1].as_u64().unwrap() - run["blocks"][0].as_u64().unwrap()).sum();
    assert_eq!(frames(&folder, "films/main-1.mp4") as u64, 4 * blocks, "no frame lost, none twice");
    let newest = sidecar["log"].as_array().unwrap().last().unwrap();
    assert_eq!((newest["type"].as_str(), newest["block"].as_u64()), (Some("block"), Some(next - 1)));

    std::fs::write(folder.path("main.jsonl"), fetched("/api/sessions/main/log")).unwrap();
    end(server, "-TERM");

    let replay = |words: &[&str]| folder.run(&[&["replay", "--json", "--weights", "world"], words].concat());
    let again = replay(&["films/main-1.json", "--out", "again.mp4"]).json();
    println!("{again}");
    assert_eq!((&again["same_device"], &again["first_difference"]), (&json!(true), &json!(null)));
    assert_eq!(again["blocks"], again["equal"]);
    assert_eq!(again["film"]["frames"], 4 * blocks);
    assert!(again["film"]["mean_psnr"].as_f64().unwrap() > 25.0, "{again}");
    assert_eq!(frames(&folder, "again.mp4") as u64, 4 * blocks);
    let plain = replay(&["main.jsonl"]).json();
    assert_eq!((&plain["blocks"], &plain["film"]), (&plain["equal"], &json!(null)));

    let text = std::fs::read_to_string(folder.path("films/main-1.json")).unwrap();
    let hash =
        sidecar["log"].as_array().unwrap().iter().find(|line| line["block"] == 1).unwrap()["hash"].as_str();
    let other = "0".repeat(64);
    std::fs::write(folder.path("films/other.json"), text.replacen(hash.unwrap(), &other, 1)).unwrap();
    let ran = replay(&["films/other.json"]);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let difference = &told["first_difference"];
    assert_eq!(
        (ran.code, &difference["block"], &difference["expected"]),
        (Some(1), &json!(1), &json!(other))
    );
    assert_eq!(difference["got"].as_str(), hash);
    assert!(ran.stderr.contains("block 1 is not the log's"), "{ran:?}");

    let elsewhere = replay(&["films/main-1.json", "--dtype", "bf16", "--min-psnr", "0"]).json();
    println!("{elsewhere}");
    assert_eq!((&elsewhere["same_device"], &elsewhere["blocks"]), (&json!(false), &again["blocks"]));
    assert!(elsewhere["first_difference"].is_object() && elsewhere["film"]["frames"] == 4 * blocks);
    // more than equal pictures have, which those of so small a world may be
    let ran = replay(&["films/main-1.json", "--dtype", "bf16", "--min-psnr", "101"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("expected 101 or more"), "{ran:?}");

    std::fs::write(folder.path("none.json"), "{}").unwrap();
    let ran = replay(&["none.json"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("neither a recording's JSON"), "{ran:?}");
    let path = folder.path("films/main-1.json");
    std::fs::write(path, text.replace(sidecar["weights"].as_str().unwrap(), "other")).unwrap();
    let ran = replay(&["films/main-1.json"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("other weights"), "{ran:?}");
}

#[tokio::test]
async fn films_take_no_more_room_than_they_may() {
    let folder = Folder::with_world();
    std::fs::create_dir(folder.path("films")).unwrap();
    let other = |bytes: u64| {
        std::fs::File::create(folder.path("films/main-1.mp4")).unwrap().set_len(bytes).unwrap();
    };
    other(1_000_000);
    let (mut server, address) = serve(&folder, &["--recordings", "films", "--recordings-mb", "1"]);
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap();
    assert_eq!(refused(&mut client, Request::Record { on: true }).await, "recordings_full");
    other(980_000);
    applied(&mut client, Request::Record { on: true }).await;
    state(&mut client, |state| state.recording.is_some()).await;
    state(&mut client, |state| state.recording.is_none()).await;
    let sidecar = get(&address, "/api/recordings/main-2.json");
    assert!(sidecar["error"].as_str().unwrap().contains("--recordings-mb"), "{sidecar}");
    let bytes = std::fs::metadata(folder.path("films/main-2.mp4")).unwrap().len();
    assert!((1_000..40_000).contains(&bytes), "{bytes}: what had room, and the container's own");
    assert!(frames(&folder, "films/main-2.mp4") >= 4);
    server.kill().unwrap();
    server.wait().unwrap();
    let words = words_of(&mut server);
    assert!(words.contains("all recordings together have reached --recordings-mb"), "{words}");
}

#[tokio::test]
async fn films_end_well_with_the_server_and_can_be_played_after_a_crash() {
    let folder = Folder::with_world();
    let flags = ["--recordings", "films", "--state", "state"];
    let (mut server, address) = serve(&folder, &flags);
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap();
    let first = applied(&mut client, Request::Record { on: true }).await;
    let newest = state(&mut client, |state| state.block > first + 6).await;
    server.kill().unwrap();
    server.wait().unwrap();
    let crashed = frames(&folder, "films/main-1.mp4");
    assert!(crashed >= 4, "{crashed} frames of {} blocks", newest.block - first);

    let (server, address) = serve(&folder, &flags);
    let listed = get(&address, "/api/recordings");
    assert_eq!((&listed[0]["name"], &listed[0]["blocks"]), (&json!("main-1"), &json!(null)));
    let (status, begun) = ask(&address, "POST", "/api/sessions", r#"{"unattended": true}"#);
    assert_eq!(status, 201, "{begun}");
    let begun = json(&begun);
    let mut other = Client::connect(begun["ws"].as_str().unwrap(), Kind::Jpeg).await.unwrap();
    applied(&mut other, Request::Record { on: true }).await;
    state(&mut other, |state| state.block > 4).await;
    let id = begun["session"].as_str().unwrap();
    assert_eq!(ask(&address, "DELETE", &format!("/api/sessions/{id}"), "").0, 204);
    let whole = |name: &str| {
        let text = std::fs::read_to_string(folder.path(&format!("films/{name}.json"))).unwrap();
        let [first, next] = serde_json::from_value(json(&text)["blocks"].clone()).unwrap();
        let (first, next): (u64, u64) = (first, next);
        assert_eq!(frames(&folder, &format!("films/{name}.mp4")) as u64, 4 * (next - first));
        next
    };
    assert!(whole(&format!("{id}-1")) > 2);

    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::H264).await.unwrap();
    let first = applied(&mut client, Request::Record { on: true }).await;
    assert_eq!(state(&mut client, |s| s.recording.is_some()).await.recording.unwrap().name, "main-2");
    state(&mut client, |state| state.block > first + 4).await;
    end(server, "-TERM");
    assert!(whole("main-2") > first + 2);
}

#[tokio::test]
async fn a_server_without_a_place_for_films_says_so() {
    let folder = Folder::with_world();
    let (server, address) = serve(&folder, &[]);
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap();
    assert_eq!(refused(&mut client, Request::Record { on: true }).await, "no_recordings");
    let (status, text) = ask(&address, "GET", "/api/recordings", "");
    assert_eq!((status, json(&text)["code"].as_str()), (409, Some("no_recordings")));
    end(server, "-TERM");
}
