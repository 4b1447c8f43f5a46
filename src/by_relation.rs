//! A value for each of some relations. The indexes of relations are dense, so it is a vector that grows.

use crate::change::RelationIndex;

/// The values by the index of their relation.
#[derive(Clone, Debug)]
pub struct ByRelation<T> {
    values: Vec<Option<T>>,
}

impl<T> Default for ByRelation<T> {
    fn default() -> Self {
        ByRelation { values: Vec::new() }
    }
}

impl<T> ByRelation<T> {
    /// The value of a relation.
    #[must_use]
    pub fn get(&self, index: RelationIndex) -> Option<&T> {
        self.values.get(place(index)).and_then(Option::as_ref)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, index: RelationIndex) -> Option<&mut T> {
        self.values.get_mut(place(index)).and_then(Option::as_mut)
    }

    /// Sets the value of a relation.
    pub fn insert(&mut self, index: RelationIndex, value: T) -> &mut T {
        if self.values.len() <= place(index) {
            self.values.resize_with(place(index) + 1, || None);
        }
        self.values[place(index)].insert(value)
    }

    /// Takes the value of a relation away.
    pub fn remove(&mut self, index: RelationIndex) -> Option<T> {
        self.values.get_mut(place(index)).and_then(Option::take)
    }

    /// The index after the last one that ever had a value.
    ///
    /// # Panics
    /// If there are more relations than 32 bits can count.
    #[must_use]
    pub fn end(&self) -> RelationIndex {
        RelationIndex(u32::try_from(self.values.len()).expect("the number of relations fits into 32 bits"))
    }
}

fn place(index: RelationIndex) -> usize {
    index.0 as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_index_until_it_is_removed() {
        let (first, last) = (RelationIndex(0), RelationIndex(3));
        let mut values = ByRelation::default();
        assert_eq!((values.get(last), values.end()), (None, first));
        assert_eq!(values.remove(last), None);
        assert_eq!(values.insert(last, "a"), &"a");
        assert_eq!((values.get(first), values.get(last), values.end()), (None, Some(&"a"), RelationIndex(4)));
        *values.get_mut(last).unwrap() = "b";
        assert_eq!(values.remove(last), Some("b"));
        assert_eq!((values.get(last), values.end()), (None, RelationIndex(4)));
    }
}
