//! A world without a model: a ball that falls where the label says, encoded by the `ffmpeg` command.
//!
//! ```text
//! cargo run --release -p acdit-io --example test_card -- 8080
//! cargo run --release -p acdit-io --example test_card -- 8080 2000 600    # for load: up to 2000 viewers, 600 kbit/s each
//! ```
//!
//! It shows what a `WorldSource` has to do, and lets the page be worked on without weights.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use acdit_io::{
    Control, Header, Hub, Kind, LabelInfo, Moments, Packet, Reply, Sampling, SamplingInfo, ServerConfig,
    Size, State, WindowInfo, WorldInfo, WorldSource, serve,
};
use bytes::Bytes;

const SIDE: usize = 64;
const RATE: u64 = 8;
const FRAMES: usize = 4;
const BLOCK: Duration = Duration::from_millis(1000 * FRAMES as u64 / RATE);
/// It changes nothing here but what viewers are told.
const SAMPLING: Sampling = Sampling { steps: 10, guidance: 1.0 };
const MOST_STEPS: u32 = 50;
const LABELS: [(&str, &str, [f32; 2]); 5] = [
    ("none", "0", [0.0, 0.0]),
    ("down", "ArrowDown", [0.0, 1.0]),
    ("up", "ArrowUp", [0.0, -1.0]),
    ("left", "ArrowLeft", [-1.0, 0.0]),
    ("right", "ArrowRight", [1.0, 0.0]),
];

type Picture = Vec<u8>;

struct TestCard {
    controls: Sender<(Control, Reply)>,
    demand: Arc<Demand>,
}

#[derive(Default)]
struct Demand {
    keyframe: AtomicBool,
    h264: AtomicUsize,
    jpeg: AtomicUsize,
}

impl WorldSource for TestCard {
    fn info(&self) -> WorldInfo {
        let label = |(name, key, _): (&str, &str, _)| LabelInfo { name: name.into(), key: Some(key.into()) };
        WorldInfo {
            world: "test card".into(),
            weights: "none".into(),
            labels: LABELS.map(label).into(),
            frames_per_second: RATE as f64,
            frame: Size { width: SIDE as u32, height: SIDE as u32 },
            input: Size { width: SIDE as u32, height: SIDE as u32 },
            display: Size { width: 512, height: 512 },
            frames_per_block: FRAMES as u32,
            codec: "avc1.42E01E".into(),
            window: WindowInfo { blocks: 0, mode: "windowed".into() },
            sampling: SamplingInfo {
                steps: SAMPLING.steps,
                guidance: SAMPLING.guidance,
                max_steps: MOST_STEPS,
            },
            reference: Some(moments(&Ball::new(0).picture([0.0, 0.0]))),
        }
    }

    fn control(&self, control: Control, reply: Reply) {
        // With the world's thread gone the reply is dropped, which reads as refused.
        let _ = self.controls.send((control, reply));
    }

    fn request_keyframe(&self) {
        self.demand.keyframe.store(true, Ordering::Relaxed);
    }

    fn viewers(&self, h264: usize, jpeg: usize) {
        self.demand.h264.store(h264, Ordering::Relaxed);
        self.demand.jpeg.store(jpeg, Ordering::Relaxed);
    }
}

/// The thread that makes the pictures.
struct World {
    hub: Hub,
    demand: Arc<Demand>,
    controls: Receiver<(Control, Reply)>,
    state: State,
    ball: Ball,
    /// Frames of a clip that are still to be shown.
    clip: Vec<Picture>,
    /// Frames for the beginning of the next block.
    inject: Vec<Picture>,
    /// The newest block, to show again while paused: its first header, how many of its frames were given, all its pixels.
    newest: Option<(Header, u64, Vec<u8>)>,
    /// Bytes that an H.264 packet has at least: shorter ones are filled up.
    packet_bytes: usize,
    frame: u64,
}

impl World {
    fn run(mut self) {
        let mut due = Instant::now();
        loop {
            match self.controls.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok((control, reply)) => self.control(control, reply),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    due = (due + BLOCK).max(Instant::now());
                    self.tick();
                }
            }
        }
    }

    fn tick(&mut self) {
        let watched = self.demand.h264.load(Ordering::Relaxed) + self.demand.jpeg.load(Ordering::Relaxed) > 0;
        if watched && !self.state.paused {
            self.step();
        } else if watched && self.demand.keyframe.load(Ordering::Relaxed) {
            self.publish();
        }
    }

    fn control(&mut self, control: Control, reply: Reply) {
        match control {
            Control::Label { index } => self.state.label = index,
            Control::Pause => self.state.paused = true,
            Control::Resume => self.state.paused = false,
            Control::Step if self.state.paused => {
                reply.applied(self.state.block);
                return self.step();
            }
            Control::Step => return reply.refused("not_paused", "step works while paused"),
            Control::Sampling { steps: Some(steps), .. } if !(1..=MOST_STEPS).contains(&steps) => {
                return reply.refused("bad_input", format!("{steps} steps: expected 1 to {MOST_STEPS}"));
            }
            Control::Sampling { steps, guidance } => {
                let sampling = &mut self.state.sampling;
                sampling.steps = steps.unwrap_or(sampling.steps);
                sampling.guidance = guidance.unwrap_or(sampling.guidance);
            }
            Control::Inject { frames } => self.inject = frames.iter().map(|frame| frame.to_vec()).collect(),
            Control::Record { .. } => {
                return reply.refused("no_recordings", "the test card keeps no recordings");
            }
            Control::Restart { seed } => self.restart(seed.unwrap_or(self.state.seed + 1)),
            Control::Continue { clip } => match decode(&clip) {
                Some(frames) => {
                    self.restart(self.state.seed);
                    self.clip = frames;
                }
                None => return reply.refused("not_a_video", "no frames could be decoded from this file"),
            },
            _ => return reply.refused("unsupported", "the test card cannot do this"),
        }
        reply.applied(self.state.block);
        self.hub.announce(self.state.clone());
    }

    fn restart(&mut self, seed: u64) {
        self.state = State { generation: self.state.generation + 1, block: 0, seed, ..self.state.clone() };
        self.ball = Ball::new(seed);
        self.clip.clear();
        self.inject.clear();
        self.state.latents = None;
        self.frame = 0;
    }

    fn step(&mut self) {
        let mut given = std::mem::take(&mut self.inject);
        given.extend(self.clip.drain(..(FRAMES - given.len()).min(self.clip.len())));
        let injected = given.len();
        let mut pictures = given;
        let (_, _, pull) = LABELS[self.state.label as usize];
        pictures.extend((injected..FRAMES).map(|_| self.ball.picture(pull)));
        let first = Header {
            kind: Kind::H264,
            keyframe: true,
            generated: true,
            injected: false,
            generation: self.state.generation,
            frame: self.frame,
            pts: self.frame * 1_000_000 / RATE,
            block: self.state.block,
            label: self.state.label,
        };
        self.frame += pictures.len() as u64;
        self.state.latents = Some(moments(&pictures.concat()));
        self.newest = Some((first, injected as u64, pictures.concat()));
        self.publish();
        self.state.block += 1;
        self.hub.announce(self.state.clone());
    }

    fn publish(&mut self) {
        let Some((first, injected, pictures)) = &self.newest else { return };
        self.demand.keyframe.store(false, Ordering::Relaxed);
        let wanted = [(Kind::H264, &self.demand.h264), (Kind::Jpeg, &self.demand.jpeg)];
        for (kind, _) in wanted.into_iter().filter(|(_, viewers)| viewers.load(Ordering::Relaxed) > 0) {
            for (at, payload) in (0..).zip(encode(kind, pictures)) {
                let payload = if kind == Kind::H264 { filled(payload, self.packet_bytes) } else { payload };
                let keyframe = at == 0 || kind == Kind::Jpeg;
                let (frame, pts) = (first.frame + at, first.pts + at * 1_000_000 / RATE);
                let (injected, generated) = (at < *injected, at >= *injected);
                let header = Header { kind, keyframe, generated, injected, frame, pts, ..*first };
                self.hub.publish(&Packet { header, payload });
            }
        }
    }
}

/// Of pixels, from -1 to 1: there are no latents here.
fn moments(pixels: &[u8]) -> Moments {
    let count = pixels.len() as f64;
    let values = || pixels.iter().map(|&pixel| f64::from(pixel) / 127.5 - 1.0);
    let mean = values().sum::<f64>() / count;
    let deviation = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    Moments { mean, deviation }
}

struct Ball {
    at: [f32; 2],
    speed: [f32; 2],
    hue: u8,
}

impl Ball {
    const RADIUS: f32 = 9.0;

    fn new(seed: u64) -> Self {
        let start = 16.0 + (seed * 37 % 32) as f32;
        Self { at: [start, 64.0 - start], speed: [3.0, 2.0], hue: (seed * 71 % 160) as u8 }
    }

    fn picture(&mut self, pull: [f32; 2]) -> Picture {
        for (axis, pull) in pull.into_iter().enumerate() {
            self.speed[axis] = (self.speed[axis] + 1.5 * pull) * 0.99;
            self.at[axis] += self.speed[axis];
            if !(Self::RADIUS..=SIDE as f32 - Self::RADIUS).contains(&self.at[axis]) {
                self.at[axis] = self.at[axis].clamp(Self::RADIUS, SIDE as f32 - Self::RADIUS);
                self.speed[axis] *= -0.9;
            }
        }
        let pixel = |x: usize, y: usize| {
            let inside = (x as f32 - self.at[0]).hypot(y as f32 - self.at[1]) < Self::RADIUS;
            if inside { [235, 80 + self.hue, 60] } else { [24, 28 + (y / 8) as u8, 40] }
        };
        (0..SIDE * SIDE).flat_map(|at| pixel(at % SIDE, at / SIDE)).collect()
    }
}

/// Encodes one block; every block of H.264 starts with a keyframe.
fn encode(kind: Kind, pictures: &[u8]) -> Vec<Bytes> {
    let (codec, start): (&str, &[u8]) = match kind {
        Kind::H264 => (
            "-c:v libx264 -preset ultrafast -tune zerolatency -profile:v baseline -x264-params aud=1 -f h264",
            &[0, 0, 0, 1, 9],
        ),
        Kind::Jpeg => ("-c:v mjpeg -q:v 3 -f mjpeg", &[0xff, 0xd8, 0xff]),
    };
    let command =
        format!("-f rawvideo -pix_fmt rgb24 -s {SIDE}x{SIDE} -r {RATE} -i - -pix_fmt yuv420p {codec} -");
    let stream = ffmpeg(&command, pictures);
    let starts: Vec<usize> = (0..stream.len()).filter(|&at| stream[at..].starts_with(start)).collect();
    let ends = starts.iter().skip(1).copied().chain([stream.len()]);
    starts.iter().zip(ends).map(|(&start, end)| Bytes::copy_from_slice(&stream[start..end])).collect()
}

/// An access unit with filler data behind it, which decoders pass over, up to so many bytes.
fn filled(access_unit: Bytes, bytes: usize) -> Bytes {
    const START: [u8; 5] = [0, 0, 0, 1, 12];
    let missing = bytes.saturating_sub(access_unit.len() + START.len() + 1);
    if missing == 0 {
        return access_unit;
    }
    [&access_unit[..], &START, &vec![0xff; missing], &[0x80]].concat().into()
}

/// The first two seconds of a clip, if there is at least one block in them.
fn decode(clip: &[u8]) -> Option<Vec<Picture>> {
    let path = std::env::temp_dir().join(format!("acdit-test-card-{}", std::process::id()));
    std::fs::write(&path, clip).ok()?;
    let filter =
        format!("fps={RATE},scale={SIDE}:{SIDE}:force_original_aspect_ratio=increase,crop={SIDE}:{SIDE}");
    let frames = 2 * RATE;
    let input = path.display();
    let command = format!("-i {input} -vf {filter} -frames:v {frames} -f rawvideo -pix_fmt rgb24 -");
    let pixels = ffmpeg(&command, &[]);
    // Left behind, the file would only take room in a temporary folder.
    let _ = std::fs::remove_file(&path);
    let pictures: Vec<Picture> = pixels.chunks_exact(SIDE * SIDE * 3).map(<[u8]>::to_vec).collect();
    (pictures.len() >= FRAMES).then_some(pictures)
}

fn ffmpeg(arguments: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error"])
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the ffmpeg command is installed");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A block is smaller than ffmpeg reads at once, so writing cannot wait for us to read its output.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("ffmpeg ends when its input does").stdout
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument =
        |index, default: usize| std::env::args().nth(index).map_or(Ok(default), |text| text.parse());
    let (port, viewers, kilobits) = (argument(1, 8080)? as u16, argument(2, 64)?, argument(3, 0)?);
    let hub = Hub::new(2 * BLOCK);
    let demand = Arc::new(Demand::default());
    let (controls, receiver) = channel();
    let world = World {
        hub: hub.clone(),
        demand: demand.clone(),
        controls: receiver,
        state: State { sampling: SAMPLING, ..State::default() },
        ball: Ball::new(0),
        clip: Vec::new(),
        inject: Vec::new(),
        packet_bytes: kilobits * 1000 / 8 / RATE as usize,
        newest: None,
        frame: 0,
    };
    std::thread::Builder::new().name("world".into()).spawn(|| world.run())?;

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let config = ServerConfig {
        max_viewers: viewers,
        max_connections: 256.max(2 * viewers),
        ..ServerConfig::default()
    };
    serve(listener, Arc::new(TestCard { controls, demand }), hub, config, stop).await?;
    Ok(())
}
