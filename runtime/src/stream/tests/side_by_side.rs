//! Streams that left one another, and what is shown where nothing is generated.

use super::*;
use crate::{Entry, Row, turns};

/// A stream that keeps the playback clock, at 40 frames per second.
fn timed(engine: &Engine, beginning: Beginning) -> Stream {
    let config = config(engine, 1);
    let encoder = EncoderSettings { frames_per_second: 40.0, ..config.encoder };
    let config = StreamConfig { max_speed: false, encoder, packets: 4, ..config };
    engine.open_with(&config, beginning, None, plain()).unwrap()
}

fn newest_row(stream: &Stream) -> Option<Row> {
    let timeline = stream.handle.timeline().unwrap();
    let entries: Vec<_> = timeline.log().iter().collect();
    entries.into_iter().rev().find_map(|entry| match entry {
        Entry::Block { row, .. } => Some(*row),
        _ => None,
    })
}

#[test]
fn forks_are_made_in_one_batch_with_the_session_that_they_left() {
    let engine = start(stages());
    let parent = timed(&engine, Beginning::New);
    parent.handle.viewers(1, 0);
    wait(&parent, |state| state.block > 2);
    let of = parent.handle.timeline().unwrap();
    let block = of.index();
    let first = timed(&engine, Beginning::Fork { of: Box::new(of), block });
    let past = first.handle.timeline().unwrap();
    let same = || timed(&engine, Beginning::Same(Box::new(past.clone())));
    let forks = [first, same(), same()];
    for (fork, label) in forks.iter().zip(0..) {
        fork.handle.apply(Control::Label(label)).unwrap();
        fork.handle.viewers(1, 0);
    }
    let all = || [&parent, &forks[0], &forks[1], &forks[2]].map(newest_row);
    while all().iter().any(|row| row.is_none_or(|row| row.batch != 4)) {
        let index = parent.handle.timeline().unwrap().index();
        assert!(index < 2000, "never together: {:?}", all());
    }
    for (fork, label) in forks.iter().zip(0..) {
        let timeline = fork.handle.timeline().unwrap();
        let entries: Vec<Entry> = timeline.log().iter().cloned().collect();
        let left = entries.iter().position(|entry| *entry == Entry::Fork { block }).unwrap();
        assert_eq!(entries[..left], past.log().iter().cloned().collect::<Vec<_>>()[..left]);
        assert_eq!(timeline.label(), label);
        Timeline::replay(&world(), &entries).unwrap();
    }
}

#[test]
fn going_back_while_paused_shows_the_picture_before_the_block() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    stream.handle.apply(Control::Pause).unwrap();
    stream.handle.viewers(1, 0);
    steps(&stream, 4);
    assert_eq!(stream.handle.apply(Control::Rewind { block: 2 }), Ok(2));
    let still = take(&stream, 1).remove(0);
    assert_eq!((still.generation, still.block, still.frame, still.keyframe), (1, 1, 0, true));
    let expected = alone(1, &[0; 4]);
    assert_eq!(still.payload, expected[3], "the last frame of block 1");
    assert_eq!(wait(&stream, |state| state.generation == 1).block, 2, "nothing was made for it");
    let made = steps(&stream, 1);
    assert_eq!(payloads(&made), expected[4..6], "block 2 once more");
    let places: Vec<_> = made.iter().map(|packet| (packet.block, packet.frame, packet.keyframe)).collect();
    assert_eq!(places, [(2, 1, true), (2, 2, false)]);
    assert_eq!(stream.handle.apply(Control::Rewind { block: 0 }), Ok(0));
    assert_eq!(steps(&stream, 1)[0].frame, 0, "before block 0 there is no picture");
}

#[test]
fn a_cut_says_which_block_begins_with_a_keyframe() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    stream.handle.apply(Control::Pause).unwrap();
    stream.handle.viewers(1, 0);
    steps(&stream, 3);
    let cut = stream.handle.cut().unwrap();
    assert_eq!((cut.generation, cut.block, cut.turn), (0, 3, 0));
    let keyframes = |packets: Vec<Packet>| packets.iter().map(|packet| packet.keyframe).collect::<Vec<_>>();
    assert_eq!(keyframes(steps(&stream, 2)), [true, false, false, false]);
    stream.handle.apply(Control::Rewind { block: 0 }).unwrap();
    let cut = stream.handle.cut().unwrap();
    assert_eq!((cut.generation, cut.block, cut.turn), (1, 0, 1));

    let clip: Vec<Frame> = (0..4).map(picture).collect();
    stream.handle.apply(Control::Continue { frames: clip }).unwrap();
    take(&stream, 4);
    let cut = stream.handle.cut().unwrap();
    assert_eq!((cut.generation, cut.block, cut.turn), (2, 2, 2));
    assert_eq!(turns(stream.handle.timeline().unwrap().log().iter()), 2);
}
