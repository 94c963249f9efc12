//! `serve --publish` and `publish`, received by what people run: nginx, and the ffmpeg command.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use acdit_io::{Client, Event, Kind, Request};

use crate::harness::{Folder, ran};
use crate::serving::{end, start};

/// More than two seconds of the tiny world.
const FRAMES: usize = 20;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// nginx with its rtmp module: the one that tools/setup.sh unpacked, or the system's.
struct Nginx {
    root: PathBuf,
}

impl Nginx {
    fn find() -> Option<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let roots = cache.map(|cache| cache.join("acdit-world/nginx-rtmp")).into_iter().chain(["/".into()]);
        let whole = |root: &PathBuf| Self::module(root).exists() && root.join("usr/sbin/nginx").exists();
        roots.into_iter().find(whole).map(|root| Self { root })
    }

    fn module(root: &Path) -> PathBuf {
        root.join("usr/lib/nginx/modules/ngx_rtmp_module.so")
    }

    /// Starts it, without daemons, in a folder.
    fn start(&self, folder: &Path, port: u16) -> Child {
        std::fs::create_dir_all(folder).unwrap();
        let config = format!(
            "load_module {};
             daemon off; master_process off; pid nginx.pid; error_log error.log;
             events {{ worker_connections 64; }}
             rtmp {{ access_log off; server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}",
            Self::module(&self.root).display()
        );
        std::fs::write(folder.join("nginx.conf"), config).unwrap();
        let folder = folder.to_str().unwrap();
        let mut command = Command::new(self.root.join("usr/sbin/nginx"));
        command.args([
            "-p",
            folder,
            "-c",
            &format!("{folder}/nginx.conf"),
            "-e",
            &format!("{folder}/error.log"),
        ]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// The ffmpeg command, decoding so many frames of an input and printing a line for each.
fn reading(input: &[&str], frames: usize) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error"]).args(input);
    command.args(["-frames:v", &frames.to_string(), "-f", "framemd5", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for it and checks that it has decoded so many frames, one after the other.
fn decoded(reader: Child, frames: usize) {
    let read = ran(reader.wait_with_output().unwrap());
    let times: Vec<i64> = (read.stdout.lines().filter(|line| !line.starts_with('#')))
        .map(|line| line.split(',').nth(2).unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!((read.code, times.len()), (Some(0), frames), "{read:?}");
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
}

/// Ends a server that was told to log to a file which no secret may reach.
fn end_quietly(server: Child, log: &Path) -> String {
    end(server, "-TERM");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("SECRET"), "{log}");
    log
}

/// A server whose log goes to a file.
fn serve_logging(folder: &Folder, more: &[&str], log: &Path) -> (Child, String) {
    let words = [&["serve", "--weights", "world", "--port", "0"], more].concat();
    let mut shell = Command::new("sh");
    let command = folder.command(&words);
    shell.args(["-c", r#"log=$1; shift; exec "$@" 2>"$log""#, "sh"]).arg(log);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(command.get_current_dir().unwrap()).env("RUST_LOG", "info").stdin(Stdio::null());
    start(shell)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rtmp_reaches_nginx_through_rewinds_and_is_found_again_after_a_restart() {
    let Some(nginx) = Nginx::find() else {
        println!("skipped: nginx with its rtmp module is missing; `make test` sets it up");
        return;
    };
    let folder = Folder::with_world();
    let (port, log) = (free_port(), folder.path("log"));
    let mut receiver = nginx.start(&folder.path("nginx"), port);
    let url = format!("rtmp://127.0.0.1:{port}/live/SECRET");
    let (server, address) = serve_logging(&folder, &["--publish", &url], &log);

    // A viewer beside it, who must miss nothing whatever becomes of the target.
    let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::H264).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let viewer = tokio::spawn(async move {
        let (mut newest, mut frames) = (None, 0);
        loop {
            tokio::select! {
                request = told.recv() => match request {
                    Some(request) => {
                        client.request(request).await.unwrap();
                    }
                    None => return frames,
                },
                event = client.next() => if let Event::Packet(packet) = event.unwrap() {
                    let header = packet.header;
                    if let Some((generation, frame)) = newest && generation == header.generation {
                        assert!(header.frame == frame || header.frame == frame + 1, "{frame}, then {header:?}");
                    }
                    newest = Some((header.generation, header.frame));
                    frames += 1;
                },
            }
        }
    });

    let reader = reading(&["-i", &url], 2 * FRAMES).spawn().unwrap();
    tell.send(Request::Restart { seed: Some(3) }).await.unwrap();
    let decoding = tokio::task::spawn_blocking(move || decoded(reader, 2 * FRAMES));
    decoding.await.unwrap();

    receiver.kill().unwrap();
    receiver.wait().unwrap();
    let mut receiver = nginx.start(&folder.path("nginx"), port);
    // It listens as soon as it can; a player that comes before is refused, and comes again.
    let again = tokio::task::spawn_blocking(move || {
        loop {
            let read = reading(&["-i", &url], FRAMES).spawn().unwrap().wait_with_output().unwrap();
            let text = String::from_utf8(read.stdout).unwrap();
            if text.lines().filter(|line| !line.starts_with('#')).count() == FRAMES {
                break;
            }
        }
    });
    again.await.unwrap();
    drop(tell);
    assert!(viewer.await.unwrap() > 3 * FRAMES, "the viewer saw all of it");
    let log = end_quietly(server, &log);
    assert!(log.contains("trying again in") && log.contains("connections=2"), "{log}");
    receiver.kill().unwrap();
    receiver.wait().unwrap();
}

#[test]
fn srt_and_rtsp_listeners_receive_and_files_are_whole() {
    let folder = Folder::with_world();
    let srt_port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rtsp_port = free_port();
    let srt = format!("srt://127.0.0.1:{srt_port}");
    let listen = format!("{srt}?mode=listener");
    let srt_reader = reading(&["-f", "mpegts", "-i", &listen], FRAMES).spawn().unwrap();
    let rtsp = format!("rtsp://127.0.0.1:{rtsp_port}/world");
    let rtsp_reader = reading(&["-rtsp_flags", "listen", "-i", &rtsp], FRAMES).spawn().unwrap();
    let with_secret = format!("rtsp://me:SECRET@127.0.0.1:{rtsp_port}/world");
    let log = folder.path("log");
    let both = format!("{srt}?passphrase=,{with_secret}");
    let flags = ["--publish", &both, "--publish", "seen.mkv"];
    let (server, address) = serve_logging(&folder, &flags, &log);
    decoded(srt_reader, FRAMES);
    decoded(rtsp_reader, FRAMES);

    // The verb does the same from outside the server.
    let from = format!("ws://{address}/ws");
    let mut verb = folder.command(&["publish", "hls", "again.mp4", "--from", &from, "--json"]);
    let verb = verb.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let playlist = folder.path("hls/stream.m3u8");
    while !playlist.exists() {
        std::thread::yield_now();
    }
    let reader = reading(&["-i", playlist.to_str().unwrap()], FRAMES).spawn().unwrap();
    decoded(reader, FRAMES);
    let sent = Command::new("kill").args(["-INT", &verb.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let said = ran(verb.wait_with_output().unwrap()).json();
    for (index, name) in ["hls", "again.mp4"].into_iter().enumerate() {
        let published = &said["published"][index];
        assert_eq!((&published["target"], &published["connections"]), (&name.into(), &1.into()), "{said}");
        assert!(published["frames"].as_u64().unwrap() >= FRAMES as u64, "{said}");
    }
    assert!(std::fs::read_to_string(&playlist).unwrap().contains("#EXT-X-ENDLIST"));

    end_quietly(server, &log);
    for name in ["seen.mkv", "again.mp4"] {
        let path = folder.path(name);
        decoded(reading(&["-i", path.to_str().unwrap()], FRAMES).spawn().unwrap(), FRAMES);
    }
}

#[test]
fn a_publisher_keeps_the_world_going_and_a_pause_is_a_still_picture() {
    let folder = Folder::with_world();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtmp://{}/live/SECRET", silent.local_addr().unwrap());
    // The second target takes the connection and never says a word: the end does not wait for it.
    let log = folder.path("log");
    let (server, address) = serve_logging(&folder, &["--publish", "hls", "--publish", &url], &log);
    let info = || {
        let url = format!("http://{address}/info");
        let got = Command::new("curl").args(["-s", &url]).output().unwrap();
        let text = String::from_utf8(got.stdout).unwrap();
        assert!(!text.contains("SECRET"), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    while info()["state"]["block"].as_u64().unwrap() < 3 {}
    assert_eq!(info()["stream"]["viewers"], 2);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(&format!("ws://{address}/ws"), Kind::H264).await.unwrap();
        client.request(Request::Pause).await.unwrap();
        let mut newest = None;
        loop {
            if let Event::Packet(packet) = client.next().await.unwrap() {
                let number = Some((packet.header.generation, packet.header.frame));
                if number == newest {
                    break assert!(packet.header.keyframe, "the same picture, for whoever has just come");
                }
                newest = number;
            }
        }
    });
    end_quietly(server, &log);
}

#[test]
fn targets_that_are_none_are_refused_at_the_start_without_their_secrets() {
    let folder = Folder::with_world();
    std::fs::write(folder.path("there.mp4"), "kept").unwrap();
    for (target, needle) in [
        ("http://me:SECRET@host/x", "unknown scheme"),
        ("rtmp:///SECRET", "expected a host"),
        ("there.mp4", "exists already"),
        ("clip.avi", "expected a URL, a folder"),
    ] {
        for words in
            [&["serve", "--weights", "world", "--port", "0", "--publish", target][..], &["publish", target]]
        {
            let refused = folder.run(words);
            assert!(refused.code == Some(2) && refused.stderr.contains(needle), "{refused:?}");
            assert!(!refused.stderr.contains("SECRET"), "{refused:?}");
        }
    }
    assert_eq!(std::fs::read(folder.path("there.mp4")).unwrap(), b"kept");

    let url = "rtmp://host/SECRET";
    for words in [&["config", "check"][..], &["config", "check", "--json"], &["serve", "--help"]] {
        let mut command = folder.command(words);
        let said = ran(command.env("ACDIT_SERVE_PUBLISH", url).output().unwrap());
        assert!(said.code == Some(0) && !said.stdout.contains("SECRET"), "{said:?}");
        assert!(words[0] == "serve" || said.stdout.contains("ACDIT_SERVE_PUBLISH"), "{said:?}");
    }
    let mut server = folder.command(&["serve", "--weights", "world", "--port", "0"]);
    let refused = ran(server.env("ACDIT_SERVE_PUBLISH", "ftp://host/SECRET").output().unwrap());
    assert!(refused.code == Some(2) && !refused.stderr.contains("SECRET"), "{refused:?}");
}
