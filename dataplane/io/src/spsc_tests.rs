//! The queue between two threads, with real threads. All their interleavings: `interleavings`.

use std::sync::Arc;

use crate::spsc::queue;

#[test]
fn a_full_queue_hands_the_value_back_and_says_when_there_is_room() {
    let (mut giver, mut taker) = queue(2);
    assert_eq!(giver.push(1), Ok(()));
    assert_eq!(giver.push(2), Ok(()));
    assert_eq!(giver.push(3), Err(3));
    assert!(!taker.giver_waits());
    assert!(!giver.wait_for_room());
    assert_eq!(taker.pop(), Some(1));
    assert!(taker.giver_waits());
    assert!(!taker.giver_waits());
    assert_eq!(giver.push(3), Ok(()));
    assert_eq!(
        (taker.pop(), taker.pop(), taker.pop()),
        (Some(2), Some(3), None)
    );
    assert!(taker.is_empty());
}

#[test]
fn order_is_kept_between_two_threads() {
    const COUNT: u64 = 200_000;
    let (mut giver, mut taker) = queue(64);
    let other = std::thread::spawn(move || {
        for number in 0..COUNT {
            let mut value = Box::new(number);
            while let Err(back) = giver.push(value) {
                value = back;
                std::thread::yield_now();
            }
        }
    });
    for expected in 0..COUNT {
        let value = loop {
            match taker.pop() {
                Some(value) => break value,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(*value, expected);
    }
    other.join().expect("the giver only pushes");
}

#[test]
fn what_nobody_took_is_dropped_once() {
    let counted = Arc::new(());
    let (mut giver, mut taker) = queue(8);
    for _ in 0..5 {
        giver.push(Arc::clone(&counted)).expect("room for eight");
    }
    drop(taker.pop());
    drop((giver, taker));
    assert_eq!(Arc::strong_count(&counted), 1);
}
