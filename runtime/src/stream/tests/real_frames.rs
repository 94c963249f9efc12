//! Streams that are given real frames.

use super::*;

#[test]
fn a_continued_clip_opens_with_its_own_pixels() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    stream.handle.viewers(1, 0);
    stream.handle.apply(Control::Pause).unwrap();
    let clip: Vec<Frame> = (0..7).map(|index| picture(40 + index)).collect();
    assert_eq!(stream.handle.apply(Control::Continue { frames: clip.clone() }), Ok(0));
    let opening: Vec<Packet> = std::iter::repeat_with(|| stream.packets.recv().unwrap().item)
        .skip_while(|packet| packet.generation == 0)
        .take(4)
        .collect();
    for (packet, frame) in opening.iter().zip(0..) {
        assert_eq!((packet.frame, packet.block, packet.injected), (frame, frame / 2, true));
        assert_eq!(packet.payload, clip[3 + frame as usize].rgb(), "the last two blocks of seven frames");
    }
    assert!(opening[0].keyframe);
    let generated = steps(&stream, 1);
    assert_eq!((generated[0].block, generated[0].frame, generated[0].injected), (2, 4, false));

    let world = world();
    let sampling = Sampling { steps: 2, ..world.meta.sampling };
    let mut session = Session::new(&world, Settings { sampling, ..Settings::of(&world, 1) }).unwrap();
    session.prime(&world, &read(&clip[3..]).unwrap(), 0).unwrap();
    let block = session.step(&world, &StepInput { label: 0, inject: None }).unwrap();
    assert_eq!(generated[1].payload, show(&block.latents).unwrap()[1].rgb());
}

#[test]
fn a_clip_that_nobody_sees_yet_waits_for_its_viewer() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    let clip: Vec<Frame> = (0..4).map(|index| picture(40 + index)).collect();
    assert_eq!(stream.handle.apply(Control::Continue { frames: clip.clone() }), Ok(0));
    // Each answer comes after a look at what there is to show.
    assert!([(); 3].into_iter().all(|()| stream.handle.apply(Control::Label(1)) == Ok(2)));
    stream.handle.viewers(1, 0);
    let packets = take(&stream, 6);
    let shown: Vec<_> = packets.iter().map(|packet| (packet.frame, packet.injected)).collect();
    assert_eq!(shown, [(0, true), (1, true), (2, true), (3, true), (4, false), (5, false)]);
    assert!(packets.iter().zip(&clip).all(|(packet, frame)| packet.payload == frame.rgb()));
}

#[test]
fn injected_frames_lead_the_next_block() {
    let engine = start(stages());
    let stream = open(&engine, 1);
    stream.handle.apply(Control::Pause).unwrap(); // before anyone watches: no block is made that the packets begin with
    stream.handle.viewers(1, 0);
    stream.handle.apply(Control::Restart { seed: None }).unwrap();
    assert_eq!(stream.handle.apply(Control::Inject { frames: vec![picture(51)] }), Ok(0));
    let packets = steps(&stream, 2);
    assert_eq!(packets.iter().map(|p| p.injected).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!(packets[0].payload, show(&read(&[picture(51)]).unwrap()).unwrap()[0].rgb());
}
