//! The messages that describe rows: Relation and Type.
//!
//! ```text
//! Relation = 'R' [Int32 xid] Int32 oid, String namespace, String name, Int8 replica_identity,
//!                Int16 column_count, { column }
//! column   = Int8 flags (1: part of the key), String name, Int32 type_oid, Int32 type_modifier
//! Type     = 'Y' [Int32 xid] Int32 oid, String namespace, String name
//! ```
//!
//! Both have an xid only within a stream block. An empty namespace means `pg_catalog`. The decoder checks the columns, so
//! iterating over them cannot fail.

use crate::wire::error::DecodeError;
use crate::wire::reader::Reader;

/// Bit of a column's flags: it belongs to the replica identity.
const COLUMN_IS_PART_OF_KEY: u8 = 1;

/// The content of an old row: `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: the whole row.
    Full,
    /// `i`: the columns of a selected unique index.
    Index,
}

impl ReplicaIdentity {
    /// Its letter on the wire and in `pg_class`.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            ReplicaIdentity::Default => 'd',
            ReplicaIdentity::Nothing => 'n',
            ReplicaIdentity::Full => 'f',
            ReplicaIdentity::Index => 'i',
        }
    }

    /// The one with this letter.
    #[must_use]
    pub fn from_letter(letter: char) -> Option<Self> {
        match letter {
            'd' => Some(ReplicaIdentity::Default),
            'n' => Some(ReplicaIdentity::Nothing),
            'f' => Some(ReplicaIdentity::Full),
            'i' => Some(ReplicaIdentity::Index),
            _ => None,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let offset = reader.offset();
        let value = reader.u8("the replica identity")?;
        let unknown = DecodeError::UnknownValue { reading: "replica identity", offset, value };
        ReplicaIdentity::from_letter(char::from(value)).ok_or(unknown)
    }
}

/// `R`: a table and its published columns. The server sends it before the table's first change and after possible
/// changes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationMessage<'a> {
    /// The transaction, within a stream block.
    pub xid: Option<u32>,
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub namespace: &'a str,
    /// Table name.
    pub name: &'a str,
    /// The content of an old row.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of the tuples' cells.
    pub columns: ColumnList<'a>,
}

impl<'a> RelationMessage<'a> {
    pub(super) fn decode(xid: Option<u32>, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(RelationMessage {
            xid,
            oid: reader.u32("the relation's OID")?,
            namespace: namespace(reader.string("the relation's namespace")?),
            name: reader.string("the relation's name")?,
            replica_identity: ReplicaIdentity::decode(reader)?,
            columns: ColumnList::decode(reader)?,
        })
    }

    /// Iterates over the columns.
    #[must_use]
    pub fn columns(&self) -> Columns<'a> {
        Columns { left: self.columns.count, reader: Reader::new(self.columns.bytes) }
    }
}

/// The columns of a [`RelationMessage`], already checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnList<'a> {
    count: u16,
    bytes: &'a [u8],
}

impl<'a> ColumnList<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.u16("the relation's column count")?;
        let before = reader.clone();
        for _ in 0..count {
            ColumnMessage::decode(reader)?;
        }
        Ok(ColumnList { count, bytes: reader.since(&before, "the columns")? })
    }
}

/// One column of a [`RelationMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnMessage<'a> {
    /// The received byte; bits other than the first are unused so far.
    pub flags: u8,
    /// Whether it belongs to the replica identity.
    pub part_of_key: bool,
    /// Column name.
    pub name: &'a str,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`; -1 for none.
    pub type_modifier: i32,
}

impl<'a> ColumnMessage<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let flags = reader.u8("a column's flags")?;
        Ok(ColumnMessage {
            flags,
            part_of_key: flags & COLUMN_IS_PART_OF_KEY != 0,
            name: reader.string("a column's name")?,
            type_oid: reader.u32("a column's type OID")?,
            type_modifier: reader.i32("a column's type modifier")?,
        })
    }
}

/// Iterates over the columns of a [`RelationMessage`].
#[derive(Clone, Debug)]
pub struct Columns<'a> {
    left: u16,
    reader: Reader<'a>,
}

impl<'a> Iterator for Columns<'a> {
    type Item = ColumnMessage<'a>;

    fn next(&mut self) -> Option<ColumnMessage<'a>> {
        self.left = self.left.checked_sub(1)?;
        ColumnMessage::decode(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

/// `Y`: a type that is not built in, before the Relation that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeMessage<'a> {
    /// The transaction, within a stream block.
    pub xid: Option<u32>,
    /// `pg_type.oid`, as in the Relation's column.
    pub oid: u32,
    /// Schema name; a domain has the schema and the name of its base type.
    pub namespace: &'a str,
    /// Type name.
    pub name: &'a str,
}

impl<'a> TypeMessage<'a> {
    pub(super) fn decode(xid: Option<u32>, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(TypeMessage {
            xid,
            oid: reader.u32("the type's OID")?,
            namespace: namespace(reader.string("the type's namespace")?),
            name: reader.string("the type's name")?,
        })
    }
}

fn namespace(sent: &str) -> &str {
    if sent.is_empty() { "pg_catalog" } else { sent }
}
