//! The drop-oldest ring between a stream's pipeline and whoever publishes its packets.
//!
//! The pipeline must never wait for a publisher, and a publisher that was late wants the newest packets, not the
//! oldest. So a full ring overwrites its oldest item, and tells the consumer how many it lost just before the item it
//! gets: a gap in H.264 means waiting for the next keyframe. The consumer sleeps on a condition variable, and the lock
//! is held only while one item moves.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringbuf::LocalRb;
use ringbuf::storage::Heap;
use ringbuf::traits::{Consumer as _, Observer as _, RingBuffer as _};

/// One end of a new ring for `capacity` items (at least one), and the other.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let state = State {
        items: LocalRb::new(capacity.max(1)),
        missed: 0,
        dropped: 0,
        producer_gone: false,
        consumer_gone: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Producer { shared: shared.clone() }, Consumer { shared })
}

struct State<T> {
    items: LocalRb<Heap<T>>,
    /// Items overwritten since the last one that the consumer took.
    missed: u64,
    /// Items overwritten, ever.
    dropped: u64,
    producer_gone: bool,
    consumer_gone: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    /// No code that can panic runs under the lock, so a poisoned state is still whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that never waits.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Producer<T> {
    /// Adds an item, overwriting the oldest if the ring is full. Returns the item when the consumer is gone.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.shared.lock();
        if state.consumer_gone {
            return Err(item);
        }
        let overwritten = state.items.push_overwrite(item);
        if overwritten.is_some() {
            state.missed += 1;
            state.dropped += 1;
        }
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.shared.lock().producer_gone = true;
        self.shared.changed.notify_one();
    }
}

/// An item, and what was lost just before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<T> {
    /// Items overwritten since the one received before this.
    pub missed: u64,
    /// The item.
    pub item: T,
}

/// Why no item came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// The time is up; more may come.
    TimedOut,
    /// The producer is gone and everything it left was taken.
    Closed,
}

/// The end that waits for items.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Consumer<T> {
    /// Waits for the next item; `None` once the producer is gone and the ring is empty.
    pub fn recv(&self) -> Option<Received<T>> {
        let mut state = self.shared.lock();
        loop {
            if let Some(received) = take(&mut state) {
                return Some(received);
            }
            if state.producer_gone {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the next item, at most `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Received<T>, Empty> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if let Some(received) = take(&mut state) {
                return Ok(received);
            }
            if state.producer_gone {
                return Err(Empty::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Empty::TimedOut);
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Items overwritten before anyone took them, since the ring was made.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.shared.lock().items.occupied_len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.consumer_gone = true;
        state.items.clear();
    }
}

fn take<T>(state: &mut State<T>) -> Option<Received<T>> {
    let item = state.items.try_pop()?;
    Some(Received { missed: std::mem::take(&mut state.missed), item })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_ring_keeps_the_newest_and_says_what_it_lost() {
        let (producer, consumer) = ring(2);
        for item in 0..5 {
            producer.push(item).unwrap();
        }
        assert_eq!(consumer.dropped(), 3);
        assert_eq!(consumer.recv(), Some(Received { missed: 3, item: 3 }));
        assert_eq!(consumer.recv(), Some(Received { missed: 0, item: 4 }));
        assert_eq!(consumer.recv_timeout(Duration::ZERO), Err(Empty::TimedOut));
    }

    #[test]
    fn a_waiting_consumer_wakes_for_an_item_and_for_the_end() {
        let (producer, consumer) = ring(4);
        let waiting = std::thread::spawn(move || {
            let first = consumer.recv();
            (first, consumer.recv())
        });
        producer.push('a').unwrap();
        drop(producer);
        assert_eq!(waiting.join().unwrap(), (Some(Received { missed: 0, item: 'a' }), None));
    }

    #[test]
    fn what_was_left_is_still_delivered_after_the_producer_is_gone() {
        let (producer, consumer) = ring(4);
        producer.push(1).unwrap();
        drop(producer);
        assert_eq!(consumer.recv().map(|r| r.item), Some(1));
        assert_eq!(consumer.recv_timeout(Duration::from_secs(1)), Err(Empty::Closed));
    }

    #[test]
    fn a_push_without_a_consumer_hands_the_item_back() {
        let (producer, consumer) = ring(1);
        drop(consumer);
        assert_eq!(producer.push(7), Err(7));
    }

    proptest! {
        /// Against the obvious model: a deque cut from the front.
        #[test]
        fn behaves_like_a_deque_cut_from_the_front(
            capacity in 1usize..6,
            pushes in proptest::collection::vec(proptest::option::of(any::<u16>()), 0..60),
        ) {
            let (producer, consumer) = ring(capacity);
            let (mut model, mut missed, mut dropped) = (VecDeque::new(), 0, 0);
            for operation in pushes {
                match operation {
                    Some(item) => {
                        producer.push(item).unwrap();
                        model.push_back(item);
                        if model.len() > capacity {
                            model.pop_front();
                            missed += 1;
                            dropped += 1;
                        }
                    }
                    None => {
                        let expected = model
                            .pop_front()
                            .map(|item| Received { missed: std::mem::take(&mut missed), item })
                            .ok_or(Empty::TimedOut);
                        prop_assert_eq!(consumer.recv_timeout(Duration::ZERO), expected);
                    }
                }
                prop_assert_eq!(consumer.len(), model.len());
                prop_assert_eq!(consumer.dropped(), dropped);
            }
        }
    }
}
