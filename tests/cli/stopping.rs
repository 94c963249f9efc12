//! How `serve` ends, what it tells the service manager, and what it writes down meanwhile.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Folder, ran};
use crate::serving::{end, start};

fn terminate(server: &Child) {
    let sent = Command::new("kill").arg(server.id().to_string()).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = Folder::with_world();
    let (mut server, address) = start(folder.command(&["serve", "--weights", "world", "--port", "0"]));
    // A clip that never comes to its end keeps the server waiting for some seconds.
    let mut upload = TcpStream::connect(&address).unwrap();
    write!(upload, "POST /api/clip HTTP/1.1\r\nHost: {address}\r\nContent-Length: 9\r\n\r\nclip").unwrap();
    while !busy(&address) {}
    terminate(&server);
    // It takes no more connections: it has seen the signal.
    while TcpStream::connect(&address).is_ok() {}
    assert_eq!(server.try_wait().unwrap(), None, "it waits for the upload");
    terminate(&server);
    assert_eq!(server.wait().unwrap().code(), Some(130));
    drop(upload);
}

/// Whether an upload is under way.
fn busy(address: &str) -> bool {
    let metrics = Command::new("curl").args(["-s", &format!("http://{address}/metrics")]).output().unwrap();
    String::from_utf8(metrics.stdout).unwrap().contains("\nacdit_uploads_in_progress 1\n")
}

#[test]
fn the_service_manager_is_told_how_it_stands() {
    let folder = Folder::with_world();
    let manager = UnixDatagram::bind(folder.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap().trim().to_owned()
    };
    let mut command = folder.command(&["serve", "--weights", "world", "--port", "0"]);
    command.env("NOTIFY_SOCKET", folder.path("notify")).env("WATCHDOG_USEC", "200000");
    let (server, _) = start(command);
    assert_eq!(heard(), "READY=1");
    for _ in 0..3 {
        assert_eq!(heard(), "WATCHDOG=1");
    }
    terminate(&server);
    while heard() != "STOPPING=1" {}
    end(server, "-0");
}

#[test]
fn a_json_log_has_the_id_of_each_request_and_no_query() {
    let folder = Folder::with_world();
    let words = ["serve", "--weights", "world", "--port", "0", "--log-format", "json"];
    let mut command = folder.command(&words);
    command.env("RUST_LOG", "info");
    let (server, address) = start(command);
    let url = format!("http://{address}/nothing?token=secret");
    let answer = Command::new("curl").args(["-s", "-i", &url]).output().unwrap();
    let answer = String::from_utf8(answer.stdout).unwrap();
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().trim();
    assert!(answer.contains(&format!("\"request_id\":\"{id}\"")), "{answer}");
    terminate(&server);
    let log = ran(server.wait_with_output().unwrap()).stderr;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_it: Vec<&Value> = lines.iter().filter(|line| line["span"]["request_id"] == id).collect();
    let said: Vec<&str> = of_it.iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(said, ["refused: there is nothing here", "answered"], "{log}");
    assert_eq!((&of_it[1]["status"], &of_it[1]["path"]), (&404.into(), &"/nothing".into()));
    assert!(!log.contains("secret"), "{log}");
}
