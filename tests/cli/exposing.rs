//! `serve` for other machines: tokens from each place that they may come from, and nowhere else.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Folder, ran};
use crate::serving::{end, serve, start};

const TOKEN: &str = "0123456789abcdef-token";

fn with_token_file(mode: u32) -> Folder {
    let folder = Folder::with_world();
    std::fs::write(folder.path("token"), format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(folder.path("token"), PermissionsExt::from_mode(mode)).unwrap();
    folder
}

/// Status of a request with these arguments of curl's.
fn status(url: &str, more: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(more)
        .arg(url)
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn a_server_for_other_machines_asks_for_the_token_in_its_file() {
    let folder = with_token_file(0o600);
    let (server, address) = serve(&folder, &["--host", "0.0.0.0", "--token-file", "token"]);
    let info = format!("http://{}/info", address.replace("0.0.0.0", "127.0.0.1"));
    assert_eq!(status(&info, &[]), "401");
    assert_eq!(status(&info, &["-H", &format!("Authorization: Bearer {TOKEN}")]), "200");

    let socket = info.replace("http", "ws").replace("/info", "/ws");
    let watch = ["watch", &socket, "--seconds", "1", "--json"];
    let seen = folder.run(&[&watch[..], &["--token-file", "token"]].concat()).json();
    assert!(seen["frames"].as_u64().unwrap() > 0, "{seen}");
    let loaded = ["loadtest", &socket, "--viewers", "2", "--seconds", "1", "--token", TOKEN, "--json"];
    let loaded = folder.run(&loaded);
    let summary = loaded.stdout.lines().last().unwrap_or_default();
    let summary: serde_json::Value = serde_json::from_str(summary).expect("a line of JSON");
    assert_eq!((loaded.code, &summary["failed"]), (Some(0), &0.into()), "{summary}");
    let stranger = folder.run(&watch);
    assert!(stranger.code == Some(2) && stranger.stderr.contains("401"), "{stranger:?}");
    end(server, "-TERM");
}

#[test]
fn a_new_token_is_printed_once_and_no_token_ever_again() {
    let folder = with_token_file(0o644);
    let mut command = folder.command(&["serve", "--weights", "world", "--port", "0", "--token", "auto"]);
    command.env("RUST_LOG", "trace");
    let (server, address) = start(command);
    let (address, token) = address.split_once("/?token=").unwrap();
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    let (page, bearer) =
        (format!("http://{address}/?token={token}"), format!("Authorization: Bearer {token}"));
    assert_eq!(status(&page, &[]), "303");
    assert_eq!(
        status(&page, &["-L", "-c", "/dev/null", "-b", ""]),
        "200",
        "curl keeps cookies as a browser does"
    );
    assert_eq!(status(&format!("http://{address}/info"), &["-H", &bearer]), "200");
    let logged = stopped(server);
    assert!(logged.contains("/info") && !logged.contains(token), "{logged}");

    let config = ran(folder.command(&["config", "check"]).env("ACDIT_SERVE_TOKEN", TOKEN).output().unwrap());
    assert!(config.stdout.contains("(not shown)") && !format!("{config:?}").contains(TOKEN), "{config:?}");
    let help = ran(folder.command(&["serve", "--help"]).env("ACDIT_SERVE_TOKEN", TOKEN).output().unwrap());
    assert!(help.code == Some(0) && !format!("{help:?}").contains(TOKEN), "{help:?}");
    let mut command = folder.command(&["serve", "--weights", "world", "--port", "0"]);
    command.env("ACDIT_SERVE_TOKEN", TOKEN);
    let (server, address) = start(command);
    let info = format!("http://{address}/info");
    assert_eq!(status(&info, &[]), "401", "asked for on loopback too, once there is one");
    assert_eq!(status(&info, &["-H", &format!("Authorization: Bearer {TOKEN}")]), "200");
    end(server, "-TERM");

    let (server, _) = serve(&folder, &["--token-file", "token"]);
    assert!(stopped(server).contains("token: every user of this machine can read it"));
}

#[test]
fn a_browser_signs_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    for needed in [Path::new(&chromium), &root.join("node_modules")] {
        if !needed.exists() {
            println!("skipped: {} is missing; `make test` sets up what can be set up", needed.display());
            return;
        }
    }
    let folder = with_token_file(0o600);
    let (server, address) = serve(&folder, &["--token-file", "token"]);
    let screenshot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("signin.png");
    let words = [format!("http://{address}"), TOKEN.to_owned(), screenshot.display().to_string()];
    let browser = ran(Command::new("node").arg(root.join("signin.mjs")).args(words).output().unwrap());
    assert_eq!(browser.code, Some(0), "{}", browser.stderr);
    println!("what it looked like: {}", screenshot.display());
    end(server, "-TERM");
}

/// What a server logged until it was told to stop.
fn stopped(server: Child) -> String {
    let sent = Command::new("kill").arg(server.id().to_string()).status().unwrap();
    assert!(sent.success());
    ran(server.wait_with_output().unwrap()).stderr
}

#[test]
fn what_cannot_be_served_is_said_before_a_model_is_loaded() {
    let folder = with_token_file(0o600);
    std::fs::write(folder.path("short"), "short").unwrap();
    for (flags, words) in [
        (&["--host", "0.0.0.0"][..], "--token-file FILE or --token auto"),
        (&["--token", "short"], "expected 16 to 512 characters, got 5"),
        (&["--token-file", "short"], "--token-file short"),
        (&["--token-file", "none"], "--token-file none"),
        (&["--token-file", "token", "--token", "auto"], "expected one of them"),
        (&["--allow-host", "http://world.example"], "http://world.example: expected a host name"),
        (&["--allow-origin", "world.example"], "world.example: expected http:// or https://"),
        (&["--trusted-proxy", "10.0.0.0/33"], "expected an address or a network"),
        (&["--tls-cert", "token"], "expected both or neither"),
        (&["--tls-cert", "token", "--tls-key", "token"], "token: expected certificates in PEM, found none"),
    ] {
        let words_of = [&["serve", "--weights", "no-such-world", "--port", "0"], flags].concat();
        let refused = ran(folder.command(&words_of).stdout(Stdio::piped()).output().unwrap());
        assert!(refused.code == Some(2) && refused.stderr.contains(words), "{flags:?}: {refused:?}");
        assert!(!refused.stderr.contains("no-such-world"), "{refused:?}");
    }
}
