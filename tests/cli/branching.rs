//! Futures, frames put in, and clips for any session, through the real binary.

use std::process::Command;

use acdit_io::{Client, Event, Future as Way, Kind, Request, ServerMessage};
use serde_json::Value;

use crate::harness::{Folder, SIDE};
use crate::serving::{ask, end, json, log_up_to, serve};

/// The `block` lines of a log from block `first` on, after its last line that goes back.
fn blocks(log: &[Value], first: u64) -> Vec<Value> {
    let turn =
        log.iter().rposition(|line| ["fork", "rewind", "restart"].contains(&line["type"].as_str().unwrap()));
    let lines = log[turn.map_or(0, |at| at + 1)..].iter();
    lines.filter(|line| line["type"] == "block" && line["block"].as_u64() >= Some(first)).cloned().collect()
}

#[tokio::test]
async fn the_future_that_changes_nothing_is_what_the_session_goes_on_to() {
    let folder = Folder::with_lively_world();
    let (server, address) = serve(&folder, &["--dtype", "f32", "--seed", "3"]);
    let url = |session: &str| format!("ws://{address}/ws/{session}");
    let mut main = Client::connect(&url("main"), Kind::Jpeg).await.unwrap();
    while !matches!(main.next().await.unwrap(), Event::Message(ServerMessage::State(state)) if state.block > 2)
    {
    }
    let id = main.request(Request::Pause).await.unwrap();
    let block = main.applied(id).await.unwrap();
    let each = vec![Way { label: Some(1), seed: None }, Way::default(), Way { label: None, seed: Some(9) }];
    let asked = main.request(Request::Futures { block, each }).await.unwrap();
    let futures = loop {
        if let Event::Message(ServerMessage::Applied { id, sessions: Some(sessions), .. }) =
            main.next().await.unwrap()
            && id == asked
        {
            break sessions;
        }
    };
    let past = log_up_to(&address, "main", block - 1);

    let mut viewers = vec![main];
    for future in &futures {
        viewers.push(Client::connect(&url(future), Kind::Jpeg).await.unwrap());
    }
    for viewer in &mut viewers[1..] {
        let id = viewer.request(Request::Pause).await.unwrap();
        viewer.applied(id).await.unwrap();
    }
    // Step by step while all others are paused: each is the only one that is made, so that equal blocks are equal bits.
    let sessions = std::iter::once("main").chain(futures.iter().map(String::as_str));
    let mut made = Vec::new();
    for (session, viewer) in sessions.zip(&mut viewers) {
        let id = viewer.request(Request::Rewind { block }).await.unwrap();
        assert_eq!(viewer.applied(id).await.unwrap(), block);
        for _ in 0..4 {
            let id = viewer.request(Request::Step).await.unwrap();
            viewer.applied(id).await.unwrap();
        }
        let (log, steps) = loop {
            let log = log_up_to(&address, session, block);
            let steps = blocks(&log, block);
            if steps.len() == 4 {
                break (log, steps);
            }
        };
        if session != "main" {
            let shared = past.iter().filter(|line| line["type"] != "pause").count();
            assert_eq!(log[..shared], past[..shared]);
            assert!(log.iter().any(|line| line["type"] == "fork" && line["block"] == block));
        }
        made.push(steps);
    }
    let own = made.remove(0);
    assert!(own.iter().chain(made.iter().flatten()).all(|line| line["batch"] == 1), "{made:?} {own:?}");
    assert_eq!(made[1], own, "the same blocks to the last bit");
    assert!(made[0][0]["hash"] != own[0]["hash"] && made[2][0]["hash"] != own[0]["hash"]);

    // All at once: one batch, and each is still what its log says.
    for viewer in &mut viewers {
        let id = viewer.request(Request::Resume).await.unwrap();
        viewer.applied(id).await.unwrap();
    }
    let mut wanted = block + 4;
    let log = loop {
        let log = log_up_to(&address, &futures[0], wanted);
        if log.iter().any(|line| line["batch"] == 4) {
            break log;
        }
        wanted += 1;
        assert!(wanted < block + 400, "never together");
    };
    let text: String = log.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.path("future.jsonl"), text).unwrap();
    end(server, "-TERM");
    let replayed = folder.run(&["replay", "future.jsonl", "--weights", "world", "--json"]).json();
    assert_eq!(replayed["blocks"], replayed["equal"]);
}

#[tokio::test]
async fn frames_are_put_in_and_a_form_begins_a_session_with_a_clip() {
    let folder = Folder::with_world();
    folder.clip("clip.mp4", 3.0);
    let (server, address) = serve(&folder, &[]);
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap();
    let info = client.info().clone();
    assert_eq!((info.input.width, info.input.height), (SIDE, SIDE));
    assert_eq!((info.sampling.steps, info.sampling.guidance, info.sampling.max_steps), (2, 1.5, 50));
    assert_eq!(info.reference, None, "a world without prompts");
    let frame = (SIDE * SIDE * 3) as usize;
    for count in [4, 1] {
        let pixels: Vec<u8> = (0..count * frame).map(|at| at as u8).collect();
        let id = client.inject(count as u8, pixels.into()).await.unwrap();
        let block = client.applied(id).await.unwrap();
        let mut injected = Vec::new();
        while injected.len() < 4 {
            if let Event::Packet(packet) = client.next().await.unwrap()
                && packet.header.block == block
            {
                injected.push(packet.header.injected);
            }
        }
        assert_eq!(injected.iter().filter(|&&injected| injected).count(), count, "{injected:?}");
        let log = log_up_to(&address, "main", block);
        let line = log.iter().find(|line| line["type"] == "inject" && line["block"] == block).unwrap();
        assert_eq!(line["latents"]["shape"][0], count);
    }
    let id = client.request(Request::Sampling { steps: Some(51), guidance: None }).await.unwrap();
    assert!(client.applied(id).await.unwrap_err().to_string().contains("at most 50"));
    let id = client.request(Request::Sampling { steps: Some(3), guidance: Some(2.0) }).await.unwrap();
    let block = client.applied(id).await.unwrap();
    let log = log_up_to(&address, "main", block);
    let line = log.iter().find(|line| line["type"] == "sampling").unwrap();
    assert_eq!((&line["block"], &line["sampling"]["steps"]), (&block.into(), &3.into()));
    while !matches!(client.next().await.unwrap(), Event::Message(ServerMessage::State(state))
        if state.latents.is_some_and(|latents| latents.deviation > 0.0) && state.sampling.guidance == 2.0)
    {
    }

    let form = |clip: &str| {
        let clip = format!("clip=@{}", folder.path(clip).display());
        let url = format!("http://{address}/api/sessions");
        let form = ["-F", "label=left", "-F", "seed=7", "-F", "unattended=true", "-F", &clip, &url];
        let output = Command::new("curl").args(["-s"]).args(form).output().unwrap();
        json(&String::from_utf8(output.stdout).unwrap())
    };
    let begun = form("clip.mp4");
    let session = begun["session"].as_str().unwrap_or_else(|| panic!("{begun}"));
    let log = log_up_to(&address, session, 3);
    let types: Vec<&str> = log.iter().map(|line| line["type"].as_str().unwrap()).collect();
    let restart = types.iter().position(|kind| *kind == "restart").unwrap();
    assert_eq!(types[restart..restart + 6], ["restart", "inject", "block", "inject", "block", "block"]);
    assert_eq!((&log[0]["label"], &log[0]["settings"]["seed"]), (&1.into(), &7.into()));

    let body = format!("@{}", folder.path("clip.mp4").display());
    assert_eq!(
        ask(&address, "POST", &format!("/api/sessions/{session}/clip"), &body),
        (200, "{\"block\":0}".into())
    );
    assert_eq!(form("world/world.json")["code"], "not_a_video");
    let (_, listed) = ask(&address, "GET", "/api/sessions", "");
    assert_eq!(json(&listed).as_array().unwrap().len(), 2, "the refused one is gone");
    end(server, "-TERM");
}
