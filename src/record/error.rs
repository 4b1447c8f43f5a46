//! Why a change cannot become records. An error names the place, never the value.

use std::fmt;

use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::record::key::KeyUnknown;
use crate::record::topic::RouteError;

/// Why a relation cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The relation has no topic.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The relation had a key, as far as is known, but its columns are no longer known.
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
                "PostgreSQL does not send the key of such a table, and the catalog no longer has it. To continue, \
                 start once with --accept-keyless: walcat then sends the older changes of such tables without a key, \
                 and you must apply their deletes yourself in consumers that keep rows by key. To keep such keys for \
                 later runs, set [state] file or use exactly-once delivery"
            }
        }
    }
}

/// A table or one of its columns, at a position in the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Schema name.
    pub schema: String,
    /// Table name.
    pub table: String,
    /// The column, if the error concerns one column.
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
    /// The server sent bytes that are not text, for example from a database in SQL_ASCII.
    #[error("cannot encode {0}: the value is not valid UTF-8")]
    NotUtf8(Box<Place>),
    /// A key column has no value.
    #[error("cannot encode {0}: a key column has no value in the row from the server")]
    KeyWithoutValue(Box<Place>),
    /// The text of a bytea value is not in the format that the session requested.
    #[error("cannot encode {0}: expected a bytea value in hex format, found another format")]
    NotHex(Box<Place>),
    /// A binary value, although the session did not request one.
    #[error("cannot encode {0}: expected a text value, found a binary value")]
    Binary(Box<Place>),
    /// A row that does not match its Relation message.
    #[error("cannot encode {place}: expected the {expected} columns of the Relation message, found {found} columns")]
    ColumnCount { place: Box<Place>, expected: usize, found: usize },
    /// A change of a relation that is not prepared.
    #[error("cannot encode the change at {lsn}: its relation is not prepared")]
    Unprepared { lsn: Lsn },
}

impl EncodeError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            EncodeError::NotUtf8(_) | EncodeError::KeyWithoutValue(_) => ExitCode::Data,
            EncodeError::NotHex(_) | EncodeError::Binary(_) | EncodeError::ColumnCount { .. } => ExitCode::Protocol,
            EncodeError::Unprepared { .. } => ExitCode::Defect,
        }
    }

    /// The operator's next step, if it is one in the database.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            EncodeError::NotUtf8(_) => Some(
                "a database in SQL_ASCII can contain bytes in any encoding; correct the row, or exclude the column \
                 from the publication",
            ),
            EncodeError::KeyWithoutValue(_) => {
                Some("include the columns of the partitioned table's replica identity in that of the partition")
            }
            _ => None,
        }
    }
}

/// The error of one cell; the row adds the place.
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
