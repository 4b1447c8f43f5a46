//! The form of a column's values in JSON, determined once per Relation.
//!
//! Built-in types are identified by their OIDs, which PostgreSQL never changes below 10000. Other types are identified
//! by the catalog. A domain has the form of its base type. A value of an unknown type is a string.

use crate::catalog_facts::TypeFacts;

/// The first OID that a server assigns itself (`FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16384;

/// The maximum nesting of domains and arrays; a deeper type has the form of text.
const TYPE_DEPTH_MAX: u32 = 32;

/// How a value's text becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::record) enum Form {
    /// A string with PostgreSQL's text.
    Text,
    /// A number if the text is one, otherwise a string, such as "NaN" or "Infinity".
    Number,
    /// `true`, `false`.
    Bool,
    /// A string in ISO 8601 where that is possible.
    Timestamp,
    /// The same with an offset, `Z` for +00.
    TimestampTz,
    /// A time of day with an offset.
    TimeTz,
    /// A base64 string.
    Bytea,
    /// An array if the text has one dimension and default bounds, otherwise a string with the text.
    Array { element: Box<Form>, delimiter: u8 },
}

impl Form {
    /// The form of a type.
    pub(in crate::record) fn of(type_oid: u32, types: &[TypeFacts]) -> Form {
        Self::at_depth(type_oid, types, 0)
    }

    fn at_depth(type_oid: u32, types: &[TypeFacts], depth: u32) -> Form {
        if type_oid < FIRST_NORMAL_OID {
            return Self::built_in(type_oid);
        }
        let facts = types.iter().find(|facts| facts.oid == type_oid);
        match facts {
            Some(domain) if depth < TYPE_DEPTH_MAX && domain.kind == 'd' => {
                Self::at_depth(domain.base_type, types, depth + 1)
            }
            Some(array) if depth < TYPE_DEPTH_MAX && array.element_type != 0 && array.delimiter.is_ascii() => {
                let element = Self::at_depth(array.element_type, types, depth + 1);
                Form::Array { element: Box::new(element), delimiter: array.delimiter as u8 }
            }
            _ => Form::Text,
        }
    }

    fn built_in(type_oid: u32) -> Form {
        if let Some(form) = scalar(type_oid) {
            return form;
        }
        match ARRAYS.binary_search_by_key(&type_oid, |(array, _)| *array) {
            Ok(found) => {
                let element = ARRAYS[found].1;
                let delimiter = if element == BOX { b';' } else { b',' };
                Form::Array { element: Box::new(scalar(element).unwrap_or(Form::Text)), delimiter }
            }
            Err(_) => Form::Text,
        }
    }
}

/// `box`, the only built-in type whose arrays do not use commas as delimiters.
const BOX: u32 = 603;

/// Built-in types whose form is not text.
fn scalar(type_oid: u32) -> Option<Form> {
    Some(match type_oid {
        16 => Form::Bool,
        17 => Form::Bytea,
        // int8, int2, int4, oid, float4, float8
        20 | 21 | 23 | 26 | 700 | 701 => Form::Number,
        1114 => Form::Timestamp,
        1184 => Form::TimestampTz,
        1266 => Form::TimeTz,
        _ => return None,
    })
}

/// Every built-in array type and its element type, by OID, as in `pg_type` of PostgreSQL 14 to 18 (`typcategory =
/// 'A'`). Excludes int2vector and oidvector, whose text is not that of an array, and pseudo-types.
#[rustfmt::skip]
const ARRAYS: [(u32, u32); 76] = [
    (143, 142), (199, 114), (271, 5069), (629, 628), (651, 650), (719, 718), (775, 774), (791, 790), (1000, 16),
    (1001, 17), (1002, 18), (1003, 19), (1005, 21), (1006, 22), (1007, 23), (1008, 24), (1009, 25), (1010, 27),
    (1011, 28), (1012, 29), (1013, 30), (1014, 1042), (1015, 1043), (1016, 20), (1017, 600), (1018, 601), (1019, 602),
    (1020, BOX), (1021, 700), (1022, 701), (1027, 604), (1028, 26), (1034, 1033), (1040, 829), (1041, 869),
    (1115, 1114), (1182, 1082), (1183, 1083), (1185, 1184), (1187, 1186), (1231, 1700), (1270, 1266), (1561, 1560),
    (1563, 1562), (2201, 1790), (2207, 2202), (2208, 2203), (2209, 2204), (2210, 2205), (2211, 2206), (2949, 2970),
    (2951, 2950), (3221, 3220), (3643, 3614), (3644, 3642), (3645, 3615), (3735, 3734), (3770, 3769), (3807, 3802),
    (3905, 3904), (3907, 3906), (3909, 3908), (3911, 3910), (3913, 3912), (3927, 3926), (4073, 4072), (4090, 4089),
    (4097, 4096), (4192, 4191), (5039, 5038), (6150, 4451), (6151, 4532), (6152, 4533), (6153, 4534), (6155, 4535),
    (6157, 4536),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(oid: u32, kind: char, base_type: u32, element_type: u32) -> TypeFacts {
        TypeFacts { oid, name: format!("t{oid}"), kind, base_type, element_type, delimiter: ',' }
    }

    fn array(element: Form) -> Form {
        Form::Array { element: Box::new(element), delimiter: b',' }
    }

    #[test]
    fn built_in_types_have_the_forms_of_the_contract() {
        for (oids, form) in [
            (&[20, 21, 23, 26, 700, 701][..], Form::Number),
            (
                &[18, 19, 22, 25, 28, 30, 114, 600, 790, 869, 1042, 1043, 1082, 1083, 1186, 1560, 1700, 2950, 3802],
                Form::Text,
            ),
            (&[16], Form::Bool),
            (&[17], Form::Bytea),
            (&[1007, 1016, 1022, 1028], array(Form::Number)),
            (&[1009, 1182, 1231, 2951, 3807, 6157], array(Form::Text)),
            (&[1000], array(Form::Bool)),
            (&[1001], array(Form::Bytea)),
            (&[1185], array(Form::TimestampTz)),
            (&[1020], Form::Array { element: Box::new(Form::Text), delimiter: b';' }),
            (&[0, 2249, 13221, 16383], Form::Text),
        ] {
            for oid in oids {
                assert_eq!(Form::of(*oid, &[]), form, "{oid}");
            }
        }
    }

    #[test]
    fn the_table_of_arrays_is_in_order() {
        assert!(ARRAYS.is_sorted_by(|(a, _), (b, _)| a < b));
    }

    #[test]
    fn the_catalog_leads_domains_to_their_base_and_arrays_to_their_elements() {
        let types = [
            facts(20001, 'd', 23, 0),
            facts(20002, 'd', 20001, 0),
            facts(20003, 'b', 0, 20002),
            facts(20004, 'd', 1007, 0),
            facts(20005, 'b', 0, 20004),
            facts(20006, 'e', 0, 0),
            facts(20007, 'b', 0, 20006),
            facts(20008, 'c', 0, 0),
            TypeFacts { delimiter: ':', ..facts(20009, 'b', 0, 20008) },
        ];
        for (oid, form) in [
            (20002, Form::Number),
            (20003, array(Form::Number)),
            (20004, array(Form::Number)),
            (20005, array(array(Form::Number))),
            (20006, Form::Text),
            (20007, array(Form::Text)),
            (20009, Form::Array { element: Box::new(Form::Text), delimiter: b':' }),
            (20010, Form::Text),
        ] {
            assert_eq!(Form::of(oid, &types), form, "{oid}");
        }
    }

    #[test]
    fn types_that_lead_to_themselves_end_as_text() {
        assert_eq!(Form::of(20001, &[facts(20001, 'd', 20001, 0)]), Form::Text);
        let mut form = Form::of(20001, &[facts(20001, 'b', 0, 20001)]);
        while let Form::Array { element, .. } = form {
            form = *element;
        }
        assert_eq!(form, Form::Text);
    }
}
