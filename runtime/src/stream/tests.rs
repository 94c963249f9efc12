//! Streams over a tiny random network. Decoder and encoder are stand-ins whose bytes show what went in, so that a packet
//! tells which latents it came from.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use acdit_model::{Config, Preset};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::pipeline::EncodeH264;
use crate::{PacketKind, WindowMode};

mod failures;
mod real_frames;
mod side_by_side;

const FRAME: Size = Size { width: 2, height: 2 };
const FRAMES_PER_BLOCK: u64 = 2;

/// The same world at every call.
fn world() -> World {
    let config = Config {
        hidden_size: 32,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        patch_size: 1,
        sample_height: 2,
        sample_width: 2,
        sample_frames: 8,
        frames_per_block: FRAMES_PER_BLOCK as i64,
        axis_lengths: vec![8, 2, 2],
        context_window: Some(2),
        ..Config::video(Preset::B, 16, 3)
    };
    World::random(&config, 5, Device::Cpu, Kind::Float).unwrap()
}

fn picture(shade: u8) -> Frame {
    Frame::new(FRAME, vec![shade; 12]).unwrap()
}

/// Each frame's twelve bytes are its first three latent values.
fn show(latents: &Tensor) -> Result<Vec<Frame>> {
    (0..latents.size()[0])
        .map(|index| {
            let values = Vec::<f32>::try_from(latents.get(index).flatten(0, -1))?;
            let bytes = values.iter().take(3).flat_map(|value| value.to_le_bytes()).collect();
            Ok(Frame::new(FRAME, bytes)?)
        })
        .collect()
}

/// A frame's latents are its first byte over 255, everywhere.
fn read(frames: &[Frame]) -> Result<Tensor> {
    if let Some(frame) = frames.iter().find(|frame| frame.size() != FRAME) {
        return Err(Error::Input(format!("frames of {}", frame.size())));
    }
    let shades: Vec<f32> = frames.iter().map(|frame| f32::from(frame.rgb()[0]) / 255.0).collect();
    let shape = [frames.len() as i64, 4, 2, 2];
    Ok(Tensor::from_slice(&shades).view([-1, 1, 1, 1]).expand(shape, false).contiguous())
}

fn step(world: &World, sessions: &mut [(&mut Session, StepInput)]) -> Vec<batch::Stepped> {
    step_batch(world, sessions, MAX_BATCH)
}

fn stages() -> Stages {
    Stages { step_batch: Box::new(step), encode_frames: Box::new(read), decode: Box::new(show) }
}

/// The payload is the frame itself.
fn plain() -> Option<OpenH264> {
    Some(Box::new(|| {
        Ok(Box::new(|frame: &Frame, keyframe| Ok((frame.rgb().to_vec(), keyframe))) as EncodeH264)
    }))
}

fn start(stages: Stages) -> Engine {
    Engine::start_with(world(), FRAME, stages).unwrap()
}

fn config(engine: &Engine, seed: u64) -> StreamConfig {
    let config = engine.config(seed);
    let sampling = Sampling { steps: 2, ..config.settings.sampling };
    let settings = Settings { sampling, ..config.settings };
    // Room for all that a test may be too slow to take.
    StreamConfig { settings, max_speed: true, packets: 100_000, ..config }
}

fn open(engine: &Engine, seed: u64) -> Stream {
    engine.open_with(&config(engine, seed), Beginning::New, None, plain()).unwrap()
}

fn take(stream: &Stream, count: u64) -> Vec<Packet> {
    (0..count).map(|_| stream.packets.recv().expect("the stream goes on").item).collect()
}

/// Waits for a state that `wanted` accepts.
fn wait(stream: &Stream, wanted: impl Fn(&State) -> bool) -> State {
    loop {
        let state = stream.states.recv().expect("the stream goes on").item;
        if wanted(&state) {
            return state;
        }
    }
}

/// Makes `count` blocks one by one, and returns their packets.
fn steps(stream: &Stream, count: u64) -> Vec<Packet> {
    (0..count)
        .flat_map(|_| {
            stream.handle.apply(Control::Step).unwrap();
            take(stream, FRAMES_PER_BLOCK)
        })
        .collect()
}

/// What a session alone makes with these labels, as frames.
fn alone(seed: u64, labels: &[i64]) -> Vec<Vec<u8>> {
    alone_in(&vec![Row::ALONE; labels.len()], seed, labels)
}

/// As [`alone`], each block as if computed in a row of a batch.
fn alone_in(rows: &[Row], seed: u64, labels: &[i64]) -> Vec<Vec<u8>> {
    let world = world();
    let sampling = Sampling { steps: 2, ..world.meta.sampling };
    let mut session = Session::new(&world, Settings { sampling, ..Settings::of(&world, seed) }).unwrap();
    let mut frames = Vec::new();
    for (&label, &row) in labels.iter().zip(rows) {
        let block = session.step_at(&world, &StepInput { label, inject: None }, row).unwrap();
        frames.extend(show(&block.latents).unwrap().into_iter().map(Frame::into_rgb));
    }
    frames
}

fn payloads(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(|packet| packet.payload.clone()).collect()
}

#[test]
fn packets_are_numbered_timed_and_begin_with_a_keyframe() {
    let engine = start(stages());
    let stream = open(&engine, 3);
    assert_eq!(engine.frames_per_block(), 2);
    stream.handle.viewers(1, 0);
    let packets = take(&stream, 6);
    for (packet, frame) in packets.iter().zip(0..) {
        assert_eq!((packet.frame, packet.block, packet.generation), (frame, frame / 2, 0));
        assert_eq!(packet.pts, frame * 125_000, "8 frames per second");
        assert_eq!((packet.keyframe, packet.injected, packet.kind), (frame == 0, false, PacketKind::H264));
    }
    assert_eq!(payloads(&packets), alone(3, &[0, 0, 0]));
}

#[test]
fn a_replay_of_seed_and_events_is_bit_equal() {
    let run = || {
        let engine = start(stages());
        let stream = open(&engine, 11);
        stream.handle.viewers(1, 0);
        stream.handle.apply(Control::Pause).unwrap();
        let mut packets = take(&stream, stream.handle.apply(Control::Label(0)).unwrap() * FRAMES_PER_BLOCK);
        assert_eq!(stream.handle.apply(Control::Restart { seed: Some(11) }), Ok(0));
        packets.clear();
        packets.extend(steps(&stream, 2));
        assert_eq!(stream.handle.apply(Control::Label(2)), Ok(2));
        packets.extend(steps(&stream, 3));
        (payloads(&packets), packets.iter().map(|packet| packet.label).collect::<Vec<_>>())
    };
    let (first, labels) = run();
    assert_eq!(labels, [0, 0, 0, 0, 2, 2, 2, 2, 2, 2]);
    assert_eq!(run().0, first);
    assert_eq!(first, alone(11, &[0, 0, 2, 2, 2]));
}

#[test]
fn a_stream_beside_others_is_the_stream_alone() {
    let rows = Arc::new(Mutex::new(vec![Vec::new(); 3]));
    let seen = rows.clone();
    let step_batch: StepBatch = Box::new(move |world, sessions| {
        let seeds: Vec<u64> = sessions.iter().map(|(session, _)| session.settings().seed).collect();
        let stepped = step(world, sessions);
        for (seed, stepped) in seeds.into_iter().zip(&stepped) {
            seen.lock().unwrap()[seed as usize].push(stepped.as_ref().unwrap().0.row);
        }
        stepped
    });
    let engine = start(Stages { step_batch, ..stages() });
    let streams: Vec<Stream> = (0..3).map(|seed| open(&engine, seed)).collect();
    for stream in &streams {
        stream.handle.viewers(1, 0);
    }
    for (stream, seed) in streams.iter().zip(0..) {
        let packets: Vec<Packet> = take(stream, 8);
        let last = packets.last().unwrap().block as usize;
        let rows = rows.lock().unwrap()[seed as usize][..=last].to_vec();
        let expected = alone_in(&rows, seed, &vec![0; last + 1]);
        for packet in packets {
            let (expected, frame) = (&expected[packet.frame as usize], packet.frame);
            assert_eq!(packet.payload, *expected, "seed {seed}, frame {frame}");
        }
    }
}

#[test]
fn nothing_is_made_while_nobody_looks_or_while_paused() {
    let engine = start(stages());
    let stream = open(&engine, 0);
    let index = |stream: &Stream| stream.handle.apply(Control::Label(1)).unwrap();
    assert_eq!([index(&stream), index(&stream), index(&stream)], [0; 3], "nobody looks");
    stream.handle.viewers(1, 0);
    take(&stream, 4);
    let paused_at = stream.handle.apply(Control::Pause).unwrap();
    assert!(wait(&stream, |state| state.paused).block >= 2);
    assert_eq!([index(&stream), index(&stream), index(&stream)], [paused_at; 3], "paused");
    stream.handle.apply(Control::Resume).unwrap();
    wait(&stream, |state| state.block > paused_at);
    stream.handle.viewers(0, 0);
    let rested_at = index(&stream);
    assert_eq!([index(&stream), index(&stream)], [rested_at; 2], "nobody looks any more");
}

#[test]
fn a_pause_is_answered_when_nothing_moves_any_more() {
    let (open_gate, gate) = bounded(16);
    let decode: Decode = Box::new(move |latents| {
        let _ = gate.recv();
        show(latents)
    });
    open_gate.send(()).unwrap(); // for the warm-up
    let engine = start(Stages { decode, ..stages() });
    let stream = open(&engine, 0);
    stream.handle.viewers(1, 0);
    wait(&stream, |state| state.block == 2);
    let (reply, answer) = bounded(1);
    stream.handle.control(Control::Pause, move |outcome| reply.send(outcome).unwrap());
    assert_eq!(stream.handle.apply(Control::Label(1)), Ok(2), "two blocks are under way");
    assert!(answer.try_recv().is_err(), "and will be shown");
    open_gate.send(()).unwrap();
    take(&stream, FRAMES_PER_BLOCK);
    assert_eq!(stream.handle.apply(Control::Label(0)), Ok(2));
    assert!(answer.try_recv().is_err());
    open_gate.send(()).unwrap();
    assert_eq!(answer.recv(), Ok(Ok(2)));
    assert_eq!(stream.packets.len() as u64, FRAMES_PER_BLOCK, "all that will come is there");

    assert_eq!(stream.handle.apply(Control::Pause), Ok(2), "at once if nothing moves");
    let (reply, answer) = bounded(1);
    stream.handle.control(Control::Step, |_| {});
    wait(&stream, |state| state.block == 3);
    stream.handle.control(Control::Pause, move |outcome| reply.send(outcome).unwrap());
    assert_eq!(stream.handle.apply(Control::Resume), Ok(3));
    assert_eq!(answer.recv(), Ok(Ok(3)), "a pause that is over is answered, too");
    drop(open_gate);
}

#[test]
fn the_playback_clock_holds_generation_back() {
    let engine = start(stages());
    let config = config(&engine, 0);
    // A block plays for an hour, so the second is due in the best part of one.
    let encoder = EncoderSettings { frames_per_second: 2.0 / 3600.0, ..config.encoder };
    let stream = engine
        .open_with(&StreamConfig { max_speed: false, encoder, ..config }, Beginning::New, None, plain())
        .unwrap();
    stream.handle.viewers(1, 0);
    take(&stream, 2);
    let index = || stream.handle.apply(Control::Label(1)).unwrap();
    assert_eq!([index(), index(), index()], [1; 3]);
    assert_eq!(stream.handle.apply(Control::Restart { seed: None }), Ok(0));
    assert_eq!(take(&stream, 2)[1].generation, 1, "a restart does not wait for the clock");
}

#[test]
fn single_steps_make_single_blocks() {
    let engine = start(stages());
    let stream = open(&engine, 4);
    stream.handle.viewers(1, 0);
    stream.handle.apply(Control::Pause).unwrap();
    let before = stream.handle.apply(Control::Restart { seed: Some(4) }).unwrap();
    assert_eq!(before, 0);
    for block in 0..3 {
        assert_eq!(stream.handle.apply(Control::Step), Ok(block));
        assert_eq!(take(&stream, 2).iter().map(|p| p.block).collect::<Vec<_>>(), [block; 2]);
    }
    assert!(wait(&stream, |state| state.block == 3).paused);
}

#[test]
fn a_restart_opens_a_generation_with_a_keyframe() {
    let engine = start(stages());
    let stream = open(&engine, 7);
    stream.handle.viewers(1, 0);
    take(&stream, 2);
    assert_eq!(stream.handle.apply(Control::Restart { seed: Some(8) }), Ok(0));
    let first = loop {
        let packet = stream.packets.recv().unwrap().item;
        if packet.generation == 1 {
            break packet;
        }
    };
    assert_eq!((first.frame, first.pts, first.block, first.keyframe), (0, 0, 0, true));
    assert_eq!(first.payload, alone(8, &[0])[0]);
    let state = wait(&stream, |state| state.generation == 1);
    assert_eq!(state.seed, 8);
    stream.handle.apply(Control::Restart { seed: None }).unwrap();
    assert_eq!(wait(&stream, |state| state.generation == 2).seed, 9);
}

#[test]
fn sampling_changes_in_part_and_the_state_tells() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    let begun = wait(&stream, |_| true);
    assert_eq!((begun.sampling.steps, begun.latents), (2, None));
    stream.handle.apply(Control::Sampling { steps: Some(3), guidance: None }).unwrap();
    stream.handle.apply(Control::Sampling { steps: None, guidance: Some(1.0) }).unwrap();
    let expected = Sampling { steps: 3, guidance: 1.0, ..begun.sampling };
    assert_eq!(wait(&stream, |state| state.sampling.guidance == 1.0).sampling, expected);

    stream.handle.apply(Control::Step).unwrap();
    let made = wait(&stream, |state| state.latents.is_some());
    let world = world();
    let settings = Settings { sampling: expected, ..config(&engine, 1).settings };
    let mut session = Session::new(&world, settings).unwrap();
    let block = session.step(&world, &StepInput { label: 0, inject: None }).unwrap();
    assert_eq!(made.hash, Some(block.hash.to_hex().to_string()));
    assert_eq!(made.latents, Some(crate::Moments::of(&block.latents)));
    stream.handle.apply(Control::Restart { seed: None }).unwrap();
    wait(&stream, |state| state.generation == 1 && state.latents.is_none());
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    let refused = |control| stream.handle.apply(control).unwrap_err();
    assert_eq!(refused(Control::Label(9)).code, "bad_input");
    assert_eq!(refused(Control::Label(-1)).code, "bad_input");
    assert_eq!(
        refused(Control::Continue { frames: vec![picture(1)] }).message,
        "a clip of 1 frames: at least 2 are needed"
    );
    let large = Frame::new(Size { width: 4, height: 2 }, vec![0; 24]).unwrap();
    assert_eq!(refused(Control::Inject { frames: vec![large.clone()] }).code, "bad_input");
    assert_eq!(refused(Control::Continue { frames: vec![large; 2] }).code, "bad_input");
    assert_eq!(refused(Control::Inject { frames: vec![picture(1); 3] }).message, "3 frames for a block of 2");
    refused(Control::Sampling { steps: Some(0), guidance: None });
    assert_eq!(refused(Control::Sampling { steps: Some(3), guidance: Some(f64::NAN) }).code, "bad_input");
    stream.handle.viewers(1, 0);
    assert_eq!(payloads(&take(&stream, 4)), alone(1, &[0, 0]));
}

#[test]
fn jpeg_is_made_for_those_who_want_it() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    stream.handle.viewers(0, 1);
    let packets = take(&stream, 3);
    assert!(
        packets.iter().all(|p| p.kind == PacketKind::Jpeg && p.keyframe && p.payload[..2] == [0xff, 0xd8])
    );
    stream.handle.viewers(1, 1);
    let first_h264 = loop {
        let packet = stream.packets.recv().unwrap().item;
        if packet.kind == PacketKind::H264 {
            break packet;
        }
    };
    assert!(first_h264.keyframe, "nothing before it was encoded");
}

#[test]
fn a_keyframe_is_published_at_once_even_while_paused() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    stream.handle.viewers(1, 0);
    stream.handle.apply(Control::Step).unwrap();
    let made = stream.handle.apply(Control::Pause).unwrap() * FRAMES_PER_BLOCK;
    let newest = take(&stream, made).pop().unwrap();
    assert!(!newest.keyframe);
    stream.handle.request_keyframe();
    let again = stream.packets.recv().unwrap().item;
    assert_eq!(again, Packet { keyframe: true, ..newest });
}

#[test]
fn a_keyframe_that_is_asked_for_after_a_restart_is_of_the_new_generation() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    stream.handle.viewers(1, 0);
    let made = stream.handle.apply(Control::Pause).unwrap() * FRAMES_PER_BLOCK;
    take(&stream, made);
    steps(&stream, 1);
    stream.handle.apply(Control::Restart { seed: None }).unwrap();
    stream.handle.request_keyframe();
    let first = steps(&stream, 1).swap_remove(0);
    assert_eq!((first.generation, first.frame, first.keyframe), (1, 0, true));
}

fn open_and_show(engine: &Engine) {
    let stream = open(engine, 0);
    stream.handle.viewers(1, 0);
    take(&stream, 2);
}

#[test]
fn a_closed_stream_gives_its_place_back() {
    let engine = start(stages());
    let mut streams: Vec<Stream> = (0..crate::MAX_STREAMS as u64).map(|seed| open(&engine, seed)).collect();
    let full = engine.open_with(&config(&engine, 0), Beginning::New, None, plain()).err().unwrap();
    assert_eq!(full.to_string(), "all 16 streams are taken");
    let Stream { handle, packets, .. } = streams.remove(0);
    drop(handle);
    assert_eq!(packets.recv(), None, "nothing was made, and the end is told");
    open_and_show(&engine);
}

#[test]
fn a_place_that_is_taken_again_shows_nothing_of_who_had_it() {
    let engine = start(stages());
    for seed in 0..2 * crate::MAX_STREAMS as u64 {
        let stream = open(&engine, seed);
        stream.handle.viewers(1, 0);
        let packets = take(&stream, 4);
        assert_eq!(payloads(&packets), alone(seed, &[0; 2]), "stream {seed}");
        let first = &packets[0];
        assert_eq!((first.generation, first.frame, first.keyframe), (0, 0, true));
        // closed with blocks of it under way
    }
}

#[test]
fn the_threads_are_joined_when_the_last_handle_goes() {
    let alive = Arc::new(Mutex::new(()));
    let held = alive.clone();
    let decode: Decode = Box::new(move |latents| {
        let _held = &held;
        show(latents)
    });
    let held = alive.clone();
    let step_batch: StepBatch = Box::new(move |world, batch| {
        let _held = &held;
        step(world, batch)
    });
    let engine = start(Stages { decode, step_batch, ..stages() });
    let stream = open(&engine, 0);
    stream.handle.viewers(1, 0);
    take(&stream, 2);
    drop(engine);
    take(&stream, 2);
    assert_eq!(Arc::strong_count(&alive), 3);
    drop(stream);
    assert_eq!(Arc::strong_count(&alive), 1, "both threads have ended and dropped what they ran");
}

#[test]
fn worlds_that_cannot_stream_are_refused() {
    let world = world();
    assert_eq!(world.default_window(), (2, WindowMode::Windowed));
    let engine = start(stages());
    let good = config(&engine, 0);
    let bad =
        StreamConfig { encoder: EncoderSettings { frames_per_second: f64::NAN, ..good.encoder }, ..good };
    assert!(matches!(engine.open_with(&bad, Beginning::New, None, plain()), Err(Error::Input(_))));
    let bad = StreamConfig { label: 7, ..config(&engine, 0) };
    assert!(matches!(engine.open_with(&bad, Beginning::New, None, plain()), Err(Error::Input(_))));
}

#[test]
fn a_rewind_shows_the_same_blocks_again_and_a_fork_its_own() {
    let engine = start(stages());
    let stream = open(&engine, 11);
    stream.handle.viewers(1, 0);
    stream.handle.apply(Control::Pause).unwrap();
    take(&stream, stream.handle.apply(Control::Label(0)).unwrap() * FRAMES_PER_BLOCK);
    stream.handle.apply(Control::Restart { seed: Some(11) }).unwrap();
    steps(&stream, 5);
    assert_eq!(stream.handle.apply(Control::Rewind { block: 2 }), Ok(2));
    assert_eq!(take(&stream, 1)[0].block, 1, "the picture before it");
    let packets = steps(&stream, 2);
    assert_eq!(
        packets.iter().map(|p| (p.generation, p.block)).collect::<Vec<_>>(),
        [(2, 2), (2, 2), (2, 3), (2, 3)]
    );
    assert!(packets[0].keyframe);
    assert_eq!(payloads(&packets), alone(11, &[0; 4])[4..]);
    let refused = stream.handle.apply(Control::Rewind { block: 9 }).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        ("bad_input", "block 9: 0 to 4 can be gone back to")
    );

    let of = Box::new(stream.handle.timeline().unwrap());
    let log = crate::write_log(of.log().iter());
    assert_eq!(log.matches(r#""type":"rewind""#).count(), 1);
    let beginning = Beginning::Fork { of, block: 3 };
    let fork = engine.open_with(&config(&engine, 0), beginning, None, plain()).unwrap();
    fork.handle.viewers(1, 0);
    fork.handle.apply(Control::Pause).unwrap();
    fork.handle.apply(Control::Rewind { block: 3 }).unwrap();
    assert_eq!(fork.handle.apply(Control::Seed(5)), Ok(3));
    fork.handle.apply(Control::Step).unwrap();
    let other: Packet = std::iter::repeat_with(|| fork.packets.recv().unwrap().item)
        .find(|packet| packet.generation == 1 && packet.block == 3)
        .unwrap();
    assert_ne!(other.payload, packets[2].payload, "another seed");
    assert_eq!(stream.handle.apply(Control::Label(0)), Ok(4), "the parent stands where it stood");
}
