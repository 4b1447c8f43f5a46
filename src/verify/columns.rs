//! Compares rows with records that do not contain every column of the table.
//!
//! A record may lack a column that was added later, have one that was dropped since, or hold the placeholder for a TOASTed
//! value that the server did not send. Such a record is compared by the columns that both have; its layout says which.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::hash;

/// The layout of a record that has every column of the table and no placeholder.
pub const WHOLE: u16 = 0;

/// The layout of a record that cannot be compared, because there are too many layouts.
pub const TOO_MANY: u16 = u16::MAX;

/// Which columns of a record are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Layout {
    /// The columns in the table's order.
    columns: Vec<usize>,
    /// Whether a value is a placeholder.
    pub has_unsent: bool,
    /// Whether the record has other columns than the table.
    pub is_older: bool,
}

/// The layouts of a table's records.
#[derive(Debug)]
pub struct Layouts {
    names: Vec<String>,
    /// The placeholder in the forms of the types, as JSON.
    placeholders: Vec<String>,
    known: Vec<Layout>,
    numbers: HashMap<Layout, u16>,
}

/// A row is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARow;

impl Layouts {
    /// For a table with these columns.
    #[must_use]
    pub fn new(names: Vec<String>, placeholders: Vec<String>) -> Self {
        let whole = Layout { columns: (0..names.len()).collect(), ..Layout::default() };
        Layouts { names, placeholders, numbers: HashMap::from([(whole.clone(), WHOLE)]), known: vec![whole] }
    }

    /// The layout of a record's row, and its hash.
    ///
    /// # Errors
    /// [`NotARow`].
    pub fn of_record(&mut self, after: &str) -> Result<(u16, u64), NotARow> {
        let fields = fields(after)?;
        let mut layout = Layout::default();
        let is_placeholder = |value: &str| self.placeholders.iter().any(|placeholder| placeholder == value);
        let mut compared = Vec::with_capacity(fields.len());
        for (place, (name, value)) in fields.iter().enumerate() {
            let at_its_place = self.names.get(place).is_some_and(|column| column == name).then_some(place);
            let Some(index) = at_its_place.or_else(|| self.names.iter().position(|column| column == name)) else {
                layout.is_older = true;
                continue;
            };
            if is_placeholder(value) {
                layout.has_unsent = true;
            } else {
                compared.push((index, *value));
            }
        }
        layout.is_older |= fields.len() != self.names.len();
        let is_in_order = compared.is_sorted_by_key(|(index, _)| *index);
        if !is_in_order {
            compared.sort_by_key(|(index, _)| *index);
            layout.is_older = true;
        }
        layout.columns = compared.iter().map(|(index, _)| *index).collect();
        let number = self.number_of(layout);
        let hash =
            if number == WHOLE { hash::of_row(after.as_bytes()) } else { hash::of_columns(compared.into_iter()) };
        Ok((number, hash))
    }

    fn number_of(&mut self, layout: Layout) -> u16 {
        /// More combinations of columns than any table should have.
        const LAYOUTS_MAX: usize = 1_000;
        if let Some(number) = self.numbers.get(&layout) {
            return *number;
        }
        let Some(number) = u16::try_from(self.known.len()).ok().filter(|_| self.known.len() < LAYOUTS_MAX) else {
            return TOO_MANY;
        };
        self.known.push(layout.clone());
        self.numbers.insert(layout, number);
        number
    }

    /// The layout with this number; none for [`TOO_MANY`].
    #[must_use]
    pub fn layout(&self, number: u16) -> Option<&Layout> {
        self.known.get(usize::from(number))
    }

    /// The hash of a row of the table, of the columns of a layout.
    ///
    /// # Errors
    /// [`NotARow`].
    pub fn of_row(&self, number: u16, after: &str) -> Result<u64, NotARow> {
        let Some(layout) = self.layout(number).filter(|_| number != WHOLE) else {
            return Ok(hash::of_row(after.as_bytes()));
        };
        let fields = fields(after)?;
        let value = |index: usize| fields.get(index).map(|(_, value)| (index, *value));
        Ok(hash::of_columns(layout.columns.iter().filter_map(|index| value(*index))))
    }
}

/// The names and the values of an object, in order; a value is JSON.
fn fields(object: &str) -> Result<Vec<(String, &str)>, NotARow> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, &'de str)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                fields.push((name, value.get()));
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_str(object).deserialize_map(Fields).map_err(|_| NotARow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layouts() -> Layouts {
        Layouts::new(["id", "a", "b"].map(str::to_owned).to_vec(), vec![r#""unsent""#.to_owned()])
    }

    /// Whether a row of the table equals a record, and whether its layout has unsent values and is older.
    fn compared(record: &str, row: &str) -> (bool, bool, bool) {
        let mut layouts = layouts();
        let (number, hash) = layouts.of_record(record).unwrap();
        let layout = layouts.layout(number).unwrap();
        (layouts.of_row(number, row).unwrap() == hash, layout.has_unsent, layout.is_older)
    }

    #[test]
    fn a_record_is_compared_by_the_columns_that_it_has() {
        let row = r#"{"id":1,"a":"x","b":null}"#;
        for (record, expected) in [
            (row, (true, false, false)),
            (r#"{"id":1,"a":"y","b":null}"#, (false, false, false)),
            (r#"{"id":1,"a":"x","b":0}"#, (false, false, false)),
            (r#"{"id":1, "a":"x","b":null}"#, (false, false, false)),
            (r#"{"id":1,"a":"unsent","b":null}"#, (true, true, false)),
            (r#"{"id":2,"a":"unsent","b":null}"#, (false, true, false)),
            (r#"{"id":1,"a":"unsent","b":7}"#, (false, true, false)),
            (r#"{"id":1,"a":"x"}"#, (true, false, true)),
            (r#"{"id":1,"a":"y"}"#, (false, false, true)),
            (r#"{"id":1,"gone":5,"a":"x","b":null}"#, (true, false, true)),
            (r#"{"id":1,"gone":5,"a":"x"}"#, (true, false, true)),
            (r#"{"id":1,"gone":5,"a":"x","b":1}"#, (false, false, true)),
            (r#"{"id":1,"b":null,"a":"x"}"#, (true, false, true)),
            (r#"{"id":1,"gone":"unsent","a":"unsent"}"#, (true, true, true)),
        ] {
            assert_eq!(compared(record, row), expected, "{record}");
        }
        assert_eq!(layouts().of_record("[]"), Err(NotARow));
        assert_eq!(layouts().of_record("null"), Err(NotARow));
    }

    #[test]
    fn values_are_not_moved_between_columns() {
        let (mut layouts, row) = (layouts(), r#"{"id":1,"a":"12","b":"3"}"#);
        let (number, hash) = layouts.of_record(r#"{"x":0,"id":1,"a":"1","b":"23"}"#).unwrap();
        assert_ne!(layouts.of_row(number, row).unwrap(), hash);
    }
}
