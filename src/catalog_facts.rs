//! What the catalog says today about a relation that the stream has announced: only facts. `pg/catalog` reads them,
//! recordings keep them, `relations` judges them.

use serde::{Deserialize, Serialize};

/// The catalog's answer for one Relation message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogAnswer {
    /// The requested OID of the relation.
    pub relation: u32,
    /// The table as it is today; none if it was dropped.
    pub table: Option<TableFacts>,
    /// Every type of the Relation's columns that is not built in (OID 16384 and above) and still exists, and the types
    /// that it refers to (base type of a domain, element of an array), each once. A dropped type is listed as a domain
    /// if the stream has named a base type that still exists.
    pub types: Vec<TypeFacts>,
}

/// A table as it is in the catalog today.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Schema name.
    pub namespace: String,
    /// Table name.
    pub name: String,
    /// `pg_class.relreplident`: d, n, f or i.
    pub replica_identity: char,
    /// Columns of the replica identity's index in index order: for DEFAULT the primary key, for INDEX that index.
    /// Empty for NOTHING and FULL and for DEFAULT without a primary key.
    pub identity_columns: Vec<String>,
    /// Columns of the primary key in index order; empty without one.
    pub primary_key: Vec<String>,
    /// All columns in the table's order. Older recordings have none.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The columns of the two keys that a Relation message may omit although the table had them: generated columns, and
    /// columns outside the publication's column list.
    #[serde(default)]
    pub unpublished: Vec<String>,
    /// `pg_class.relispartition`.
    pub is_partition: bool,
}

/// A type that is not built in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeFacts {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_type.typname`.
    pub name: String,
    /// `pg_type.typtype`: b base, c composite, d domain, e enum, m multirange, p pseudo, r range.
    pub kind: char,
    /// The base type of a domain (`typbasetype`), otherwise 0.
    pub base_type: u32,
    /// The element type of a true array (`typcategory` A: `typelem`), otherwise 0.
    pub element_type: u32,
    /// `typdelim` of the element, which separates the elements in the array's text; usually a comma.
    pub delimiter: char,
}
