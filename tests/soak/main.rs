//! The real server under load for minutes: does anything creep, and does anybody notice a stalled neighbour, a clip, a kill?
//!
//! It runs by `make soak`, since it takes minutes and a machine to itself would suit it best. On any other machine figures
//! are noisy, so nothing is held against a fixed percentage: what is disturbed is compared with the same load undisturbed,
//! run several times, and may differ by as much as those differ from one another. Each judge also meets a control, made here
//! and outside the product, that it must find bad: a process that leaks, a line that stutters.

mod busy;
mod judge;
mod kills;
mod server;
mod viewers;

use std::process::ExitCode;
use std::time::Duration;

use judge::{Memory, Pace, Verdict};
use server::Server;

/// With the stalled one, as many as a server takes.
const HEALTHY: usize = 63;
/// Windows with and without a disturbance, in turn.
const PAIRS: usize = 3;
/// Long enough for a stalled viewer to be noticed and cut off.
const SHORTEST_WINDOW: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(judge::LEAK) {
        judge::leak();
    }
    let Ok(minutes) = std::env::var("ACDIT_SOAK_MINUTES") else {
        println!("soak: skipped, because it takes minutes: `make soak MINUTES=10` runs it");
        return ExitCode::SUCCESS;
    };
    let minutes: f64 = minutes.parse().expect("ACDIT_SOAK_MINUTES is a number");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let verdicts = runtime.block_on(soak(Duration::from_secs_f64(minutes * 60.0)));
    let failed = verdicts.iter().filter(|verdict| !verdict.good).count();
    println!("\n{} of {} as they should be", verdicts.len() - failed, verdicts.len());
    verdicts.iter().filter(|verdict| !verdict.good).for_each(|verdict| println!("FAILED: {}", verdict.says));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn soak(whole: Duration) -> Vec<Verdict> {
    let folder = tempfile::tempdir().unwrap();
    let mut verdicts = Vec::new();
    let mut tell = |verdict: Verdict| {
        println!("{}  {}", if verdict.good { "ok    " } else { "FAILED" }, verdict.says);
        verdicts.push(verdict);
    };
    let mut server = Server::start(folder.path(), 0);

    let window = whole.mul_f64(0.5 / (2 * PAIRS) as f64).max(SHORTEST_WINDOW);
    println!("\n{HEALTHY} viewers, {PAIRS} times {window:?} alone and {PAIRS} times beside one that stalls");
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        alone.push(viewers::window(server.address(), server.address(), HEALTHY, window).await);
        let stalled = tokio::spawn(viewers::stall(server.address(), window));
        beside.push(viewers::window(server.address(), server.address(), HEALTHY, window).await);
        tell(stalled.await.unwrap());
    }
    let pace = Pace::of(&alone);
    tell(pace.judge("beside a stalled viewer", &beside));
    let held = viewers::through_a_stuttering_line(server.address(), HEALTHY, SHORTEST_WINDOW).await;
    tell(pace.judge("control: through a line that stutters", &[held]).inverted());

    let time = whole.mul_f64(0.25);
    println!("\nclips, sessions begun and ended, forks, rewinds and restarts for {time:?}");
    let (memory, done) = busy::keep(&server, folder.path(), time).await;
    tell(done);
    tell(memory.judge("the server's memory between rounds"));
    tell(Memory::of_a_leak().judge("control: a process that leaks").inverted());

    let time = whole.mul_f64(0.15);
    println!("\nkilled and started again for {time:?}");
    for verdict in kills::keep(&mut server, folder.path(), time).await {
        tell(verdict);
    }
    verdicts
}
