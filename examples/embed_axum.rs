//! A world inside a web server of one's own: a picture that moves, and a link for each label.
//!
//! ```text
//! cargo run --release --example embed_axum -- weights/gravity     # then open http://127.0.0.1:3000
//! ```
//!
//! It sends JPEGs one after the other in one response, which every browser shows in an `<img>`. `acdit-world serve` has
//! the real page, protocol and limits; this is what is left when all of that is somebody else's.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use acdit_codec::vae::Vae;
use acdit_runtime::device::Placement;
use acdit_runtime::{Consumer, Control, Packet, Stream, StreamHandle, World};
use anyhow::Context;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect};
use axum::{Router, routing::get};
use futures_util::stream;
use tokio::sync::watch;

#[derive(Clone)]
struct App {
    stream: Arc<StreamHandle>,
    /// The newest JPEG; a slow browser skips the ones between.
    newest: watch::Receiver<Bytes>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let weights = std::env::args_os().nth(1).map(PathBuf::from).context("expected a weights folder")?;
    let Placement { device, kind } = Placement::CPU_F32;
    let world = World::load(&weights, device, kind)?;
    let vae = Vae::load(&weights.join("vae"), device, kind)?;
    let Stream { handle, packets, .. } = Stream::open(world, vae, 0)?;
    handle.viewers(0, 1);

    let (newest_in, newest) = watch::channel(Bytes::new());
    std::thread::spawn(move || forward(&packets, &newest_in));
    let app = Router::new()
        .route("/", get(page))
        .route("/stream", get(moving_picture))
        .route("/label/{index}", get(label))
        .with_state(App { stream: Arc::new(handle), newest });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// Ends with the stream, or when nobody can look any more.
fn forward(packets: &Consumer<Packet>, newest: &watch::Sender<Bytes>) {
    while let Some(received) = packets.recv() {
        if newest.send(received.item.payload.into()).is_err() {
            return;
        }
    }
}

async fn page(State(app): State<App>) -> Html<String> {
    let labels = app.stream.engine().meta().labels.iter().enumerate();
    let links: String =
        labels.map(|(index, label)| format!("<a href=/label/{index}>{}</a> ", label.name)).collect();
    Html(format!("<img src=/stream width=512 style='image-rendering:pixelated'><p>{links}"))
}

async fn moving_picture(State(app): State<App>) -> impl IntoResponse {
    let parts = stream::unfold(app.newest, async |mut newest| {
        newest.changed().await.ok()?;
        let jpeg = newest.borrow_and_update().clone();
        let head = format!("--frame\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n", jpeg.len());
        let part = [head.as_bytes(), &jpeg, b"\r\n"].concat();
        Some((Ok::<_, Infallible>(part), newest))
    });
    ([(header::CONTENT_TYPE, "multipart/x-mixed-replace; boundary=frame")], Body::from_stream(parts))
}

async fn label(State(app): State<App>, Path(index): Path<i64>) -> Result<Redirect, (StatusCode, String)> {
    let (reply, outcome) = tokio::sync::oneshot::channel();
    app.stream.control(Control::Label(index), move |outcome| {
        // A browser that has left needs no answer.
        let _ = reply.send(outcome);
    });
    match outcome.await {
        Ok(Ok(_)) => Ok(Redirect::to("/")),
        Ok(Err(refusal)) => Err((StatusCode::UNPROCESSABLE_ENTITY, refusal.message)),
        Err(_) => Err((StatusCode::SERVICE_UNAVAILABLE, "the stream has ended".to_owned())),
    }
}
