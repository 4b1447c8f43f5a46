//! The parts of the encoding that a Relation message determines for all its rows.

use std::ops::Range;

use crate::catalog_facts::CatalogAnswer;
use crate::change::Row;
use crate::lsn::Lsn;
use crate::record::error::{Fault, Place};
use crate::record::format::json::push_string;
use crate::record::shape::debezium;
use crate::record::values::form::Form;
use crate::record::values::{Scratch, push_base64, push_value};
use crate::relations::Relation;
use crate::wire::pgoutput::Cell;

/// How the rows of one relation are encoded.
#[derive(Debug)]
pub(in crate::record) struct Plan {
    schema: String,
    table: String,
    columns: Vec<ColumnPlan>,
    /// `{"a":`, `,"b":` in the key's order; empty without a key.
    key: Vec<Vec<u8>>,
    /// The relation's part of `source`.
    pub(in crate::record) collection: Vec<u8>,
}

#[derive(Debug)]
struct ColumnPlan {
    name: String,
    /// `{"a":` for the first, `,"b":` for the others.
    piece: Vec<u8>,
    form: Form,
    /// The position of the column in the key.
    key_place: Option<usize>,
    /// Whether a key column may be null. A column of the replica identity may not. The primary key in the current
    /// catalog may be newer than the row.
    key_nullable: bool,
}

/// The JSON placeholder for a TOASTed value that the server did not send. It has the form of the column's values,
/// as in Debezium. An array of numbers contains the bytes of the text.
#[derive(Debug)]
pub(in crate::record) struct Placeholder {
    text: Vec<u8>,
    base64: Vec<u8>,
    texts: Vec<u8>,
    base64s: Vec<u8>,
    numbers: Vec<u8>,
}

impl Placeholder {
    pub(in crate::record) fn new(text: &str) -> Self {
        let (mut string, mut base64) = (Vec::new(), Vec::new());
        push_string(&mut string, text);
        push_base64(&mut base64, text.as_bytes());
        let array = |element: &[u8]| [b"[", element, b"]"].concat();
        let numbers = text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(",");
        Placeholder {
            texts: array(&string),
            base64s: array(&base64),
            numbers: array(numbers.as_bytes()),
            text: string,
            base64,
        }
    }

    /// The placeholder in every form.
    pub(in crate::record) fn forms(&self) -> [&[u8]; 5] {
        [&self.text, &self.base64, &self.texts, &self.base64s, &self.numbers]
    }

    fn for_form(&self, form: &Form) -> &[u8] {
        match form {
            Form::Bytea => &self.base64,
            Form::Array { element, .. } => match **element {
                Form::Bytea => &self.base64s,
                Form::Number => &self.numbers,
                _ => &self.texts,
            },
            _ => &self.text,
        }
    }
}

/// The positions of the key column values in the last encoded row, in the key's order.
pub(in crate::record) type KeyValues = Vec<Range<usize>>;

impl Plan {
    /// Makes a plan with these columns as the key, given by their positions in the relation.
    pub(in crate::record) fn new(relation: &Relation, answer: &CatalogAnswer, key_columns: &[usize]) -> Self {
        let full = relation.replica_identity == crate::wire::pgoutput::ReplicaIdentity::Full;
        let columns = relation.columns.iter().enumerate().map(|(place, column)| ColumnPlan {
            name: column.name.clone(),
            piece: field(place, &column.name),
            form: Form::of(column.type_oid, &answer.types),
            key_place: key_columns.iter().position(|key_column| *key_column == place),
            key_nullable: full,
        });
        let key = key_columns.iter().enumerate().map(|(place, column)| field(place, &relation.columns[*column].name));
        Plan {
            schema: relation.namespace.clone(),
            table: relation.name.clone(),
            columns: columns.collect(),
            key: key.collect(),
            collection: debezium::collection(&relation.namespace, &relation.name),
        }
    }

    pub(in crate::record) fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    /// A place in the relation, for an error.
    pub(in crate::record) fn place(&self, column: Option<usize>, lsn: Lsn) -> Place {
        let column = column.and_then(|column| self.columns.get(column)).map(|column| column.name.clone());
        Place { schema: self.schema.clone(), table: self.table.clone(), column, lsn }
    }

    /// Appends a row as a JSON object and records the positions of the key values.
    ///
    /// A TOASTed value that was not sent is taken from `old` if `old` has a value there, as it does under FULL. A null
    /// in `old` does not count as a value. An error contains the column that it concerns.
    pub(in crate::record) fn push_row(
        &self,
        out: &mut Vec<u8>,
        row: Row<'_>,
        old: Option<Row<'_>>,
        placeholder: &Placeholder,
        scratch: &mut Scratch,
        key_values: &mut KeyValues,
    ) -> Result<(), (Fault, Option<usize>)> {
        let expected = self.columns.len();
        let found = row.column_count();
        if found != expected {
            return Err((Fault::ColumnCount { expected, found }, None));
        }
        key_values.clear();
        key_values.resize(self.key.len(), 0..0);
        let mut old_cells = old.map(|old| old.cells());
        for (place, (column, cell)) in self.columns.iter().zip(row.cells()).enumerate() {
            let old_cell = old_cells.as_mut().and_then(Iterator::next);
            out.extend_from_slice(&column.piece);
            let start = out.len();
            column.push(out, cell, old_cell, placeholder, scratch).map_err(|fault| (fault, Some(place)))?;
            if let Some(key_place) = column.key_place {
                key_values[key_place] = start..out.len();
            }
        }
        out.extend_from_slice(if expected == 0 { b"{}" } else { b"}" });
        Ok(())
    }

    /// Appends the key with the given key values; returns `None` without a key.
    pub(in crate::record) fn push_key(&self, out: &mut Vec<u8>, key_values: &KeyValues) -> Option<Range<usize>> {
        if !self.has_key() {
            return None;
        }
        let start = out.len();
        for (piece, value) in self.key.iter().zip(key_values) {
            out.extend_from_slice(piece);
            out.extend_from_within(value.clone());
        }
        out.push(b'}');
        Some(start..out.len())
    }
}

impl ColumnPlan {
    fn push(
        &self,
        out: &mut Vec<u8>,
        cell: Cell<'_>,
        old_cell: Option<Cell<'_>>,
        placeholder: &Placeholder,
        scratch: &mut Scratch,
    ) -> Result<(), Fault> {
        match (cell, old_cell) {
            (Cell::Text(text), _) | (Cell::UnchangedToast, Some(Cell::Text(text))) => {
                push_value(out, &self.form, text, scratch)
            }
            (Cell::Binary(bytes), _) | (Cell::UnchangedToast, Some(Cell::Binary(bytes))) => {
                if self.form != Form::Bytea {
                    return Err(Fault::Binary);
                }
                push_base64(out, bytes);
                Ok(())
            }
            (Cell::UnchangedToast, _) if self.key_place.is_some() => Err(Fault::KeyWithoutValue),
            (Cell::UnchangedToast, _) => {
                out.extend_from_slice(placeholder.for_form(&self.form));
                Ok(())
            }
            (Cell::Null, _) if self.key_place.is_some() && !self.key_nullable => Err(Fault::KeyWithoutValue),
            (Cell::Null, _) => {
                out.extend_from_slice(b"null");
                Ok(())
            }
        }
    }
}

/// `{"name":` for the first field of an object, `,"name":` for the others.
fn field(place: usize, name: &str) -> Vec<u8> {
    let mut piece = vec![if place == 0 { b'{' } else { b',' }];
    push_string(&mut piece, name);
    piece.push(b':');
    piece
}
