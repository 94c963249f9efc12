//! The hub's invariant under every order of publishing, losing, joining, reading and leaving that proptest finds.

use proptest::prelude::*;
use tokio::task::unconstrained;

use super::*;

fn header(generation: u32, frame: u64, keyframe: bool) -> Header {
    Header {
        kind: Kind::H264,
        keyframe,
        generated: true,
        injected: false,
        generation,
        frame,
        pts: frame * 100_000,
        block: frame / 4,
        label: 0,
    }
}

fn packet(generation: u32, frame: u64, keyframe: bool) -> Packet {
    Packet { header: header(generation, frame, keyframe), payload: Bytes::from_static(&[0; 8]) }
}

fn hub() -> Hub {
    Hub::new(Duration::from_millis(1000))
}

/// What is there now, without waiting.
fn poll(viewer: &mut Viewer) -> Option<Delivery> {
    use futures_util::FutureExt as _;
    unconstrained(viewer.next()).now_or_never()
}

fn frame_of(delivery: Delivery) -> (u32, u64, bool) {
    let Delivery::Packet(message) = delivery else { panic!("expected a packet, got {delivery:?}") };
    let Header { generation, frame, keyframe, .. } = Packet::decode(message).unwrap().header;
    (generation, frame, keyframe)
}

#[test]
fn the_first_viewer_asks_for_a_keyframe_once_and_starts_there() {
    let hub = hub();
    let mut viewer = hub.join(Kind::H264);
    assert_eq!(poll(&mut viewer), Some(Delivery::NeedsKeyframe));
    hub.publish(&packet(0, 7, false));
    assert_eq!(poll(&mut viewer), None);
    hub.publish(&packet(0, 8, true));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (0, 8, true));
    assert_eq!(hub.stats(), HubStats { published: 2, dropped: 0, viewers: 1 });
}

#[test]
fn a_late_joiner_starts_at_the_newest_keyframe_and_catches_up() {
    let hub = hub();
    for frame in 0..12 {
        hub.publish(&packet(0, frame, frame % 5 == 0));
    }
    let mut viewer = hub.join(Kind::H264);
    hub.publish(&packet(0, 12, false));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (0, 10, true));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (0, 11, false));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (0, 12, false));
    assert_eq!(poll(&mut viewer), None);
}

#[test]
fn a_run_too_long_to_keep_makes_the_joiner_ask() {
    let hub = hub();
    for frame in 0..=BACKLOG_PACKETS as u64 {
        hub.publish(&packet(0, frame, frame == 0));
    }
    assert_eq!(poll(&mut hub.join(Kind::H264)), Some(Delivery::NeedsKeyframe));
}

#[test]
fn a_viewer_that_falls_behind_is_told_how_much_it_missed() {
    let hub = hub();
    let mut viewer = hub.join(Kind::H264);
    for frame in 0..20 {
        hub.publish(&packet(0, frame, frame == 0));
    }
    assert_eq!(poll(&mut viewer), Some(Delivery::NeedsKeyframe));
    hub.publish(&packet(0, 20, true));
    assert_eq!(poll(&mut viewer), Some(Delivery::Gap(20)));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (0, 20, true));
    assert_eq!(hub.stats().dropped, 20);
}

#[test]
fn a_full_queue_keeps_what_follows_its_newest_keyframe() {
    let hub = hub();
    let mut viewer = hub.join(Kind::H264);
    for frame in 0..12 {
        hub.publish(&packet(0, frame, frame % 4 == 0));
    }
    assert_eq!(poll(&mut viewer), Some(Delivery::Gap(8)));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (0, 8, true));
}

#[test]
fn a_queue_whose_newest_keyframe_leaves_no_room_drops_everything() {
    let hub = hub();
    let mut viewer = hub.join(Kind::H264);
    for (frame, thirds) in [(0, 0), (1, 3), (2, 1), (3, 2)] {
        let header = Header { pts: 0, ..header(0, frame, frame < 2) };
        let payload = vec![0; thirds * (MAX_PACKET - crate::HEADER_LEN) / 3];
        hub.publish(&Packet { header, payload: payload.into() });
    }
    assert_eq!(viewer.seat.queue().bytes, 0);
    assert_eq!(poll(&mut viewer), Some(Delivery::NeedsKeyframe));
    hub.publish(&packet(0, 4, true));
    assert_eq!(poll(&mut viewer), Some(Delivery::Gap(4)));
}

#[test]
fn kinds_do_not_mix_and_leaving_lowers_demand() {
    let hub = hub();
    let demand = hub.demand();
    let mut jpeg = hub.join(Kind::Jpeg);
    let h264 = hub.join(Kind::H264);
    assert_eq!(*demand.borrow(), Demand { h264: 1, jpeg: 1 });
    hub.publish(&packet(0, 0, true));
    assert_eq!(poll(&mut jpeg), Some(Delivery::NeedsKeyframe));
    assert_eq!(poll(&mut jpeg), None);
    drop(h264);
    assert_eq!(*demand.borrow(), Demand { h264: 0, jpeg: 1 });
}

#[test]
fn a_kind_that_nobody_wanted_for_a_while_does_not_start_from_old_pictures() {
    let hub = hub();
    let of =
        |kind, frame| Packet { header: Header { kind, ..header(0, frame, true) }, payload: Bytes::new() };
    hub.publish(&of(Kind::Jpeg, 3));
    hub.publish(&of(Kind::H264, 3));
    assert_eq!(frame_of(poll(&mut hub.join(Kind::Jpeg)).unwrap()), (0, 3, true));
    hub.publish(&of(Kind::H264, 4));
    assert_eq!(poll(&mut hub.join(Kind::Jpeg)), Some(Delivery::NeedsKeyframe));
}

#[test]
fn a_packet_too_large_for_the_wire_breaks_the_chain_instead_of_the_connection() {
    let hub = hub();
    let mut viewer = hub.join(Kind::H264);
    hub.publish(&packet(0, 0, true));
    hub.publish(&Packet { header: header(0, 1, false), payload: vec![0; MAX_PACKET].into() });
    hub.publish(&packet(0, 2, false));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (0, 0, true));
    assert_eq!(poll(&mut viewer), Some(Delivery::NeedsKeyframe));
    hub.publish(&packet(0, 3, true));
    assert_eq!(poll(&mut viewer), Some(Delivery::Gap(2)));
}

#[test]
fn a_joiner_is_not_shown_what_came_before_an_announced_restart() {
    let hub = hub();
    hub.publish(&packet(0, 0, true));
    hub.announce(State { generation: 1, ..State::default() });
    let mut viewer = hub.join(Kind::H264);
    assert_eq!(poll(&mut viewer), Some(Delivery::NeedsKeyframe));
    hub.publish(&packet(1, 0, true));
    assert_eq!(frame_of(poll(&mut viewer).unwrap()), (1, 0, true));
    assert_eq!(frame_of(poll(&mut hub.join(Kind::H264)).unwrap()), (1, 0, true));
}

#[derive(Clone, Debug)]
enum Act {
    Publish { keyframe: bool },
    LoseUpstream,
    Restart,
    Join,
    Read { viewer: usize, deliveries: usize },
    Leave { viewer: usize },
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => prop::bool::weighted(0.15).prop_map(|keyframe| Act::Publish { keyframe }),
        1 => Just(Act::LoseUpstream),
        1 => Just(Act::Restart),
        1 => Just(Act::Join),
        6 => (0..4_usize, 1..6_usize).prop_map(|(viewer, deliveries)| Act::Read { viewer, deliveries }),
        1 => (0..4_usize).prop_map(|viewer| Act::Leave { viewer }),
    ]
}

proptest! {
    #[test]
    fn no_viewer_is_handed_a_delta_without_the_frame_before_it(acts in prop::collection::vec(acts(), 1..300)) {
        let hub = hub();
        let (mut generation, mut frame) = (0, 0);
        // Each with the generation that was announced when it came, and what it was handed last.
        let mut viewers: Vec<(Viewer, u32, Option<_>)> = Vec::new();
        for act in acts {
            match act {
                Act::Publish { keyframe } => {
                    hub.publish(&packet(generation, frame, keyframe));
                    frame += 1;
                }
                Act::LoseUpstream => frame += 1,
                Act::Restart => {
                    (generation, frame) = (generation + 1, 0);
                    hub.announce(State { generation, ..State::default() });
                }
                Act::Join => viewers.push((hub.join(Kind::H264), generation, None)),
                Act::Leave { viewer } if viewer < viewers.len() => drop(viewers.swap_remove(viewer)),
                Act::Read { viewer, deliveries } if viewer < viewers.len() => {
                    let (viewer, announced, last) = &mut viewers[viewer];
                    for delivery in std::iter::from_fn(|| poll(viewer)).take(deliveries) {
                        let Delivery::Packet(message) = delivery else { continue };
                        let (generation, frame, keyframe) = frame_of(Delivery::Packet(message));
                        let follows = *last == frame.checked_sub(1).map(|before| (generation, before));
                        prop_assert!(keyframe || (last.is_some() && follows), "{last:?} then {frame}");
                        prop_assert!(generation >= *announced, "{generation} after {announced} was announced");
                        *last = Some((generation, frame));
                    }
                }
                Act::Read { .. } | Act::Leave { .. } => {}
            }
        }
    }

    /// Frames as (keyframe, bytes), and after each how much the viewer that keeps up reads.
    #[test]
    fn a_viewer_is_handed_the_same_whatever_its_neighbours_do(
        frames in prop::collection::vec((prop::bool::weighted(0.2), 0..4_usize, 0..4_usize), 1..120),
        neighbours in prop::collection::vec(prop::option::of(0..120_usize), 0..4),
    ) {
        let seen = |neighbours: &[Option<usize>]| {
            let hub = hub();
            let mut viewer = hub.join(Kind::H264);
            let mut stalled: Vec<_> = neighbours.iter().map(|until| (hub.join(Kind::H264), until)).collect();
            let mut deliveries = Vec::new();
            for (at, &(keyframe, large, reads)) in frames.iter().enumerate() {
                let header = header(0, at as u64, keyframe);
                hub.publish(&Packet { header, payload: vec![0; large * MAX_PACKET / 3].into() });
                deliveries.extend(std::iter::from_fn(|| poll(&mut viewer)).take(reads));
                // some leave in the middle, the others never read
                stalled.retain(|(_, until)| until.is_none_or(|until| until > at));
            }
            deliveries.extend(std::iter::from_fn(|| poll(&mut viewer)));
            deliveries
        };
        prop_assert_eq!(seen(&neighbours), seen(&[]));
    }

    /// Three packets of the largest size are more than a queue takes.
    #[test]
    fn a_queue_holds_no_more_bytes_than_it_may(
        frames in prop::collection::vec((prop::bool::weighted(0.3), 0..4_usize), 1..40),
    ) {
        let hub = hub();
        let viewer = hub.join(Kind::H264);
        for (at, &(keyframe, large)) in frames.iter().enumerate() {
            let header = Header { pts: 0, ..header(0, at as u64, keyframe) };
            hub.publish(&Packet { header, payload: vec![0; large * (MAX_PACKET - crate::HEADER_LEN) / 3].into() });
            let queue = viewer.seat.queue();
            let held: usize = queue.entries.iter().map(|entry| entry.message.len()).sum();
            prop_assert_eq!(held, queue.bytes);
            prop_assert!(held <= QUEUE_BYTES && queue.entries.len() <= QUEUE_PACKETS, "{} bytes", held);
        }
    }

    #[test]
    fn every_packet_is_delivered_or_counted_and_queues_stay_bounded(
        keyframes in prop::collection::vec(prop::bool::weighted(0.2), 1..200),
        reads in prop::collection::vec(0..3_usize, 200),
    ) {
        let hub = hub();
        let mut viewer = hub.join(Kind::H264);
        hub.publish(&packet(0, 0, true));
        let (mut delivered, mut missed) = (0, 0);
        let mut count = |delivery| match delivery {
            Delivery::Packet(_) => delivered += 1,
            Delivery::Gap(packets) => missed += packets,
            Delivery::NeedsKeyframe => {}
        };
        for (at, &keyframe) in keyframes.iter().enumerate() {
            hub.publish(&packet(0, at as u64 + 1, keyframe));
            std::iter::from_fn(|| poll(&mut viewer)).take(reads[at]).for_each(&mut count);
            let entries = viewer.seat.queue().entries.len();
            prop_assert!(entries <= 11, "1 s of lag at 10 frames per second, got {} packets", entries);
        }
        hub.publish(&packet(0, keyframes.len() as u64 + 1, true));
        std::iter::from_fn(|| poll(&mut viewer)).for_each(&mut count);
        prop_assert_eq!(delivered + missed, keyframes.len() as u64 + 2);
        prop_assert_eq!(hub.stats().dropped, missed);
    }
}
