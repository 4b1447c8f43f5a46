//! Why a change becomes no records. Names the place, never the value.

use std::fmt;

use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::record::key::KeyUnknown;
use crate::record::topic::RouteError;

/// Why a relation cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// It has no topic.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// It had a key, as far as is known, and nothing tells any more which.
    #[error("the key of {schema}.{table} is not known: the table has REPLICA IDENTITY FULL, and {why}")]
    KeyUnknown { schema: String, table: String, why: KeyUnknown },
}

impl PrepareError {
    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            PrepareError::Route(error) => error.hint(),
            PrepareError::KeyUnknown { .. } => {
                "PostgreSQL sends no key for such a table, and its catalog has forgotten it. To go on, start once with \
                 --accept-keyless: the older changes of such tables are then sent without a key, so that a consumer that keeps \
                 rows by key has to be told of these deletes by other means. With [state] file or exactly-once delivery walcat \
                 keeps the keys that it has used, for the next time"
            }
        }
    }
}

/// A table, or one of its columns, at a place in the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Schema name.
    pub schema: String,
    /// Table name.
    pub table: String,
    /// The column, where it is one column's fault.
    pub column: Option<String>,
    /// The LSN of the change.
    pub lsn: Lsn,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(column) = &self.column {
            write!(f, "column {column} of ")?;
        }
        write!(f, "{}.{} at {}", self.schema, self.table, self.lsn)
    }
}

/// Why a change cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The server sent bytes that are no text: a database in SQL_ASCII does.
    #[error("cannot encode {0}: the value is not valid UTF-8")]
    NotUtf8(Box<Place>),
    /// A key column came without a value.
    #[error("cannot encode {0}: a key column has no value in the row that the server sent")]
    KeyWithoutValue(Box<Place>),
    /// Text of bytea that is not in the form the session asked for.
    #[error("cannot encode {0}: a bytea value is not in the hex format that the session asked for")]
    NotHex(Box<Place>),
    /// A binary value that the session did not ask for.
    #[error("cannot encode {0}: a binary value came, and text was asked for")]
    Binary(Box<Place>),
    /// A row that does not fit its Relation message.
    #[error("cannot encode {place}: a row has {found} columns, the Relation message has {expected}")]
    ColumnCount { place: Box<Place>, expected: usize, found: usize },
    /// A change of a relation that was never prepared.
    #[error("cannot encode the change at {lsn}: its relation was not prepared")]
    Unprepared { lsn: Lsn },
}

impl EncodeError {
    /// The code that the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            EncodeError::NotUtf8(_) | EncodeError::KeyWithoutValue(_) => ExitCode::Data,
            EncodeError::NotHex(_) | EncodeError::Binary(_) | EncodeError::ColumnCount { .. } => ExitCode::Protocol,
            EncodeError::Unprepared { .. } => ExitCode::Defect,
        }
    }

    /// The operator's next step, where it is one in the database.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            EncodeError::NotUtf8(_) => Some(
                "a database in SQL_ASCII holds bytes of any encoding; correct the row, or leave the column out of the \
                 publication",
            ),
            EncodeError::KeyWithoutValue(_) => {
                Some("a partition's replica identity has to cover that of the partitioned table")
            }
            _ => None,
        }
    }
}

/// What is wrong with one cell; the row adds the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) enum Fault {
    NotUtf8,
    KeyWithoutValue,
    NotHex,
    Binary,
    ColumnCount { expected: usize, found: usize },
}

impl Fault {
    pub(in crate::record) fn at(self, place: Place) -> EncodeError {
        let place = Box::new(place);
        match self {
            Fault::NotUtf8 => EncodeError::NotUtf8(place),
            Fault::KeyWithoutValue => EncodeError::KeyWithoutValue(place),
            Fault::NotHex => EncodeError::NotHex(place),
            Fault::Binary => EncodeError::Binary(place),
            Fault::ColumnCount { expected, found } => EncodeError::ColumnCount { place, expected, found },
        }
    }
}
