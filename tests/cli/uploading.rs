//! Clips sent to `serve` that are hostile, or whose decoder comes to harm.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use acdit_io::{Client, Event, Kind};
use serde_json::Value;

use crate::harness::Folder;
use crate::old_kernel;
use crate::serving::{serve, start, words_of};

/// An upload in progress.
struct Upload(Child);

impl Upload {
    fn start(folder: &Folder, address: &str, name: &str) -> Self {
        let body = format!("@{}", folder.path(name).display());
        let curl = Command::new("curl")
            .args([
                "-s",
                "-w",
                "\n%{http_code}",
                "--data-binary",
                &body,
                &format!("http://{address}/api/clip"),
            ])
            .stdout(Stdio::piped())
            .spawn();
        Self(curl.unwrap())
    }

    /// Status and body of the answer.
    fn answer(self) -> (u16, Value) {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{text}"));
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}")))
    }
}

fn make(folder: &Folder, name: &str, words: &str) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error"]).args(words.split(' ')).arg(folder.path(name));
    let made = command.current_dir(folder.path("")).status().unwrap();
    assert!(made.success(), "{name}");
}

/// A clip that takes seconds to decode.
fn make_slow(folder: &Folder, name: &str) {
    make(folder, "part.mp4", "-f lavfi -i testsrc2=s=1920x1080:r=25 -frames:v 25 -c:v mpeg4 -q:v 20");
    make(folder, name, "-stream_loop 39 -i part.mp4 -c copy");
}

/// The server's processes that are decoding a clip now.
fn decoders(server: &Child) -> BTreeSet<u32> {
    let parent = server.id().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        let stat = read("stat");
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, of) = (fields.next(), fields.next());
        of == Some(&parent)
            && state != Some("Z")
            && read("cmdline").starts_with("acdit-world\0decode-upload\0last")
    })
    .collect()
}

/// Waits for a decoder that is not among the `known` ones, which one of these uploads must bring about.
fn next_decoder(server: &Child, uploads: &mut [Upload], known: &BTreeSet<u32>) -> u32 {
    loop {
        let over = uploads.iter_mut().all(|upload| upload.0.try_wait().unwrap().is_some());
        if let Some(id) = decoders(server).difference(known).next() {
            return *id;
        }
        assert!(!over, "all uploads are over and no decoder was seen");
    }
}

fn signal(name: &str, id: u32) {
    assert!(Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
}

fn stop(mut server: Child) -> String {
    signal("-TERM", server.id());
    assert_eq!(server.wait().unwrap().code(), Some(0));
    words_of(&mut server)
}

/// What a stranger may be told: no path, no address, nothing of a library.
fn is_clean(body: &Value) -> bool {
    let text = body["error"].as_str().unwrap_or("/");
    let bare = text.replace("MP4/MOV", "");
    body["request_id"].is_string()
        && !["/", "0x", "libav", "signal", "process"].iter().any(|w| bare.contains(w))
}

#[tokio::test]
async fn a_decoder_that_hangs_or_dies_harms_its_own_clip_only() {
    let folder = Folder::with_world();
    folder.clip("good.mp4", 3.0);
    make_slow(&folder, "slow.mp4");
    let (server, address) = serve(&folder, &["--upload-seconds", "2"]);
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::Jpeg).await.unwrap();

    let mut uploads: Vec<_> = (0..3).map(|_| Upload::start(&folder, &address, "slow.mp4")).collect();
    let mut known = BTreeSet::new();
    for _ in 0..2 {
        let id = next_decoder(&server, &mut uploads, &known);
        signal("-STOP", id);
        known.insert(id);
    }
    // Two at once: the third begins when a stopped one was given up.
    let third = next_decoder(&server, &mut uploads, &known);
    assert!(decoders(&server).len() <= 2);
    signal("-KILL", third);
    let mut answers: Vec<_> = uploads.into_iter().map(Upload::answer).collect();
    answers.sort_by_key(|(status, _)| *status);
    let statuses: Vec<_> =
        answers.iter().map(|(status, body)| (*status, body["code"].as_str().unwrap())).collect();
    assert_eq!(statuses, [(408, "too_slow"), (408, "too_slow"), (422, "decoder_failed")]);
    assert!(answers.iter().all(|(_, body)| is_clean(body)), "{answers:?}");
    assert!(decoders(&server).is_empty(), "none is left");

    let before = client.state().generation;
    loop {
        if let Event::Packet(packet) = client.next().await.unwrap() {
            assert_eq!(packet.header.generation, before, "the stream goes on as it was");
            break;
        }
    }
    assert_eq!(Upload::start(&folder, &address, "good.mp4").answer().0, 200);
    let log = stop(server);
    for (_, body) in &answers {
        let id = body["request_id"].as_str().unwrap();
        assert!(log.lines().any(|line| line.contains(id) && line.contains("detail")), "{id}: {log}");
    }
    assert!(log.contains("killed by signal 9") && log.contains("not done after 2."), "{log}");
}

#[test]
fn hostile_clips_are_refused_in_words_of_the_servers_own() {
    let folder = Folder::with_world();
    make(
        &folder,
        "huge.mkv",
        "-f lavfi -i color=black:s=8192x8192:r=1 -frames:v 1 -c:v mjpeg -pix_fmt yuvj420p",
    );
    make(&folder, "exotic.mkv", "-f lavfi -i testsrc2=s=64x64:d=1 -c:v ffv1");
    fs::write(folder.path("list.avi"), "#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n").unwrap();
    fs::write(folder.path("list.mp4"), "ffconcat version 1.0\nfile '/etc/passwd'\n").unwrap();
    let (server, address) = serve(&folder, &[]);
    for (name, status, code) in [
        ("huge.mkv", 413, "too_large"),
        ("exotic.mkv", 415, "codec_not_accepted"),
        ("list.avi", 415, "not_a_video"),
        ("list.mp4", 415, "not_a_video"),
    ] {
        let (got, body) = Upload::start(&folder, &address, name).answer();
        assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{name}: {body}");
        assert!(is_clean(&body), "{name}: {body}");
    }
    assert_eq!(stop(server), "", "hostile clips are no news");
}

#[test]
fn a_server_that_is_killed_takes_its_decoders_along() {
    let folder = Folder::with_world();
    make_slow(&folder, "slow.mp4");
    let (mut server, address) = serve(&folder, &[]);
    let mut uploads = [Upload::start(&folder, &address, "slow.mp4")];
    let id = next_decoder(&server, &mut uploads, &BTreeSet::new());
    signal("-STOP", id);
    server.kill().unwrap();
    server.wait().unwrap();
    // Gone, or a zombie that nobody has reaped yet.
    let stat = || fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    while stat().contains(") T ") || stat().contains(") R ") || stat().contains(") S ") {}
    uploads[0].0.wait().unwrap();
}

#[test]
fn without_a_sandbox_uploads_are_refused_unless_asked_for() {
    let folder = Folder::with_world();
    folder.clip("good.mp4", 3.0);
    let on_an_old_kernel = |more: &[&str]| {
        let words = [&["serve", "--weights", "world", "--port", "0"], more].concat();
        let mut command = folder.command(&words);
        old_kernel::pretend(&mut command);
        command.env("RUST_LOG", "info");
        let (mut server, address) = start(command);
        // Said once, whatever it is, when a process has tried.
        let mut lines = BufReader::new(server.stderr.as_mut().unwrap()).lines().map(Result::unwrap);
        let said = lines.find(|line| line.contains("uploads are ")).expect("it is said");
        (server, address, said)
    };
    let (server, address, said) = on_an_old_kernel(&[]);
    assert!(said.contains("uploads are refused, there is no sandbox"), "{said}");
    let (status, body) = Upload::start(&folder, &address, "good.mp4").answer();
    assert_eq!((status, body["code"].as_str()), (403, Some("uploads_refused")), "{body}");
    stop(server);

    let (server, address, said) = on_an_old_kernel(&["--allow-unsandboxed-uploads"]);
    assert!(said.contains("without a sandbox, as asked for"), "{said}");
    assert_eq!(Upload::start(&folder, &address, "good.mp4").answer().0, 200);
    stop(server);
}
