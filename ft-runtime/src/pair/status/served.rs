//! How many are answered at the control socket at the moment.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Clone, Default)]
pub struct Served(Arc<(Mutex<usize>, Condvar)>);

/// One of them, as long as it lives.
pub struct Seat(Served);

impl Served {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: `max` are answered already.
    pub fn enter(&self, max: usize) -> Option<Seat> {
        let mut count = self.count();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Seat(self.clone()))
    }

    /// Until nobody is left, but not longer than this.
    pub fn wait_for_none(&self, time_max: Duration) {
        let _ = self.0.1.wait_timeout_while(self.count(), time_max, |count| *count > 0);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_and_no_more() {
        let served = Served::default();
        let (one, _two) = (served.enter(2).unwrap(), served.enter(2).unwrap());
        assert!(served.enter(2).is_none());
        drop(one);
        assert!(served.enter(2).is_some());
    }

    #[test]
    fn the_last_one_ends_the_waiting() {
        let served = Served::default();
        let seat = served.enter(1).unwrap();
        let leaves = std::thread::spawn(move || drop(seat));
        served.wait_for_none(Duration::from_secs(60));
        leaves.join().unwrap();
        assert!(served.enter(1).is_some());
    }
}
