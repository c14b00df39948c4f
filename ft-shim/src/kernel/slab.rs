//! Values under small stable indices; the lowest free index is given first.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

pub struct Slab<T> {
    items: Vec<Option<T>>,
    free: BTreeSet<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { items: Vec::new(), free: BTreeSet::new() }
    }
}

impl<T> Slab<T> {
    pub fn insert(&mut self, v: T) -> usize {
        match self.free.pop_first() {
            Some(i) => {
                self.items[i] = Some(v);
                i
            }
            None => {
                self.items.push(Some(v));
                self.items.len() - 1
            }
        }
    }

    pub fn remove(&mut self, i: usize) -> T {
        let v = self.items[i].take().expect("slab index in use");
        self.free.insert(i);
        v
    }

    pub fn get(&self, i: usize) -> Option<&T> {
        self.items.get(i)?.as_ref()
    }

    pub fn get_mut(&mut self, i: usize) -> Option<&mut T> {
        self.items.get_mut(i)?.as_mut()
    }

    pub fn at(&self, i: usize) -> &T {
        self.get(i).expect("slab index in use")
    }

    pub fn at_mut(&mut self, i: usize) -> &mut T {
        self.get_mut(i).expect("slab index in use")
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.items.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_ref()?)))
    }

    pub fn indices(&self) -> Vec<usize> {
        self.iter().map(|(i, _)| i).collect()
    }
}
