//! Streams through the real stages: network, VAE and encoders, all tiny and random.

#![cfg(feature = "video")]

mod common;

use acdit_codec::{Frame, Size};
use acdit_runtime::{
    Control, Engine, Packet, PacketKind, Sampling, Session, Settings, Stream, StreamConfig, render,
};

const SIZE: Size = Size { width: 16, height: 16 };

fn open(engine: &Engine) -> Stream {
    let config = engine.config(1);
    let sampling = Sampling { steps: 2, ..config.settings.sampling };
    let settings = Settings { sampling, ..config.settings };
    engine.open(&StreamConfig { settings, max_speed: true, packets: 4096, ..config }).unwrap()
}

fn packets(stream: &Stream) -> impl Iterator<Item = Packet> {
    std::iter::repeat_with(|| stream.packets.recv().expect("the stream goes on").item)
}

/// The NAL unit types of an access unit.
fn nal_types(unit: &[u8]) -> Vec<u8> {
    unit.windows(4).filter(|bytes| bytes[..3] == [0, 0, 1]).map(|bytes| bytes[3] & 0x1f).collect()
}

#[test]
fn h264_begins_with_parameter_sets_and_says_its_name() {
    let (world, vae) = common::world();
    let engine = Engine::start(world, vae).unwrap();
    assert_eq!((engine.frame(), engine.frames_per_block()), (SIZE, 2));
    let stream = open(&engine);
    assert!(stream.handle.codec().is_some_and(|codec| codec.starts_with("avc1.42")));
    stream.handle.viewers(1, 0);
    let first: Vec<Packet> = packets(&stream).take(3).collect();
    let types = nal_types(&first[0].payload);
    assert!([7, 8, 5].iter().all(|wanted| types.contains(wanted)), "{types:?}");
    assert_eq!(first.iter().map(|packet| packet.keyframe).collect::<Vec<_>>(), [true, false, false]);
    assert!(nal_types(&first[1].payload).contains(&1));
}

#[test]
fn a_clip_goes_through_the_vae_and_is_continued() {
    let (world, vae) = common::world();
    let engine = Engine::start(world, vae).unwrap();
    let stream = open(&engine);
    stream.handle.viewers(0, 1);
    let clip: Vec<Frame> =
        [200, 120, 60, 10].map(|shade| Frame::new(SIZE, vec![shade; 16 * 16 * 3]).unwrap()).to_vec();
    assert_eq!(stream.handle.apply(Control::Continue { frames: clip.clone() }), Ok(0));
    let shown: Vec<Packet> = packets(&stream).filter(|packet| packet.generation == 1).take(6).collect();
    for (packet, frame) in shown.iter().zip(&clip) {
        assert_eq!(packet.kind, PacketKind::Jpeg);
        assert_eq!(packet.payload, acdit_codec::still::jpeg(frame, 85).unwrap(), "the clip's own pixels");
    }
    let injected: Vec<bool> = shown.iter().map(|packet| packet.injected).collect();
    assert_eq!(injected, [true, true, true, true, false, false]);
    assert_eq!(shown[5].block, 2);
}

#[test]
fn rendering_offline_gives_the_streams_pictures() {
    let (world, vae) = common::world();
    let sampling = Sampling { steps: 2, ..world.meta.sampling };
    let settings = Settings { sampling, ..Settings::of(&world, 1) };
    let mut session = Session::new(&world, settings).unwrap();
    let rendered: Vec<_> =
        render(&world, &vae.decoder, &mut session, [0; 3]).collect::<Result<_, _>>().unwrap();
    assert_eq!(rendered.iter().map(|block| block.block.index).collect::<Vec<_>>(), [0, 1, 2]);
    let pictures: Vec<Vec<u8>> = (rendered.iter().flat_map(|block| &block.frames))
        .map(|frame| acdit_codec::still::jpeg(frame, 85).unwrap())
        .collect();

    let engine = Engine::start(world, vae).unwrap();
    let stream = open(&engine);
    stream.handle.viewers(0, 1);
    let streamed: Vec<Vec<u8>> = packets(&stream).take(6).map(|packet| packet.payload).collect();
    assert_eq!(streamed, pictures);
}
