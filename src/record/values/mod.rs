//! Converts the text of one value to JSON, in the form of its column's type.
//!
//! The result is valid JSON for any text: a text that does not have the expected form becomes a string.

mod array;
mod datetime;
pub(in crate::record) mod form;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::limits::ENCODE_BUFFER_KEPT_BYTES;
use crate::record::error::Fault;
use crate::record::format::json::{is_number, push_string};
use crate::record::values::array::push_array;
use crate::record::values::datetime::{push_timestamp, push_timestamptz, push_timetz};
use crate::record::values::form::Form;

/// Buffers for texts that must be unescaped first. They are kept from row to row, one for each nesting level of arrays.
#[derive(Debug, Default)]
pub(in crate::record) struct Scratch(Vec<Vec<u8>>);

impl Scratch {
    pub(in crate::record) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Discards a buffer that a rare huge value has enlarged.
    pub(in crate::record) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        if buffer.capacity() <= ENCODE_BUFFER_KEPT_BYTES {
            self.0.push(buffer);
        }
    }
}

/// Appends a value as JSON; `text` is PostgreSQL's text.
pub(in crate::record) fn push_value(
    out: &mut Vec<u8>,
    form: &Form,
    text: &[u8],
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let taken = match form {
        Form::Text => false,
        Form::Number if is_number(text) => {
            out.extend_from_slice(text);
            true
        }
        Form::Number => false,
        Form::Bool => match text {
            b"t" => {
                out.extend_from_slice(b"true");
                true
            }
            b"f" => {
                out.extend_from_slice(b"false");
                true
            }
            _ => false,
        },
        Form::Timestamp => quoted(out, text, push_timestamp),
        Form::TimestampTz => quoted(out, text, push_timestamptz),
        Form::TimeTz => quoted(out, text, push_timetz),
        Form::Bytea => {
            push_hex_as_base64(out, text)?;
            true
        }
        Form::Array { element, delimiter } => push_array(out, element, *delimiter, text, scratch)?,
    };
    if !taken {
        push_string(out, std::str::from_utf8(text).map_err(|_| Fault::NotUtf8)?);
    }
    Ok(())
}

fn quoted(out: &mut Vec<u8>, text: &[u8], push: fn(&mut Vec<u8>, &[u8]) -> bool) -> bool {
    let start = out.len();
    out.push(b'"');
    if push(out, text) {
        out.push(b'"');
        true
    } else {
        out.truncate(start);
        false
    }
}

/// Appends bytes as a JSON string of base64.
pub(in crate::record) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    push_base64_piece(out, bytes);
    out.push(b'"');
}

fn push_base64_piece(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    let written = BASE64.encode_slice(bytes, &mut out[start..]);
    assert_eq!(written.ok(), Some(out.len() - start), "the buffer for base64 has the exact size");
}

/// Appends `\x00ff`, the hex format of bytea, as a JSON string of base64.
fn push_hex_as_base64(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Fault> {
    /// A multiple of 3, so that only the last piece has padding.
    const PIECE_BYTES: usize = 768;
    let digits = text.strip_prefix(b"\\x").ok_or(Fault::NotHex)?;
    if !digits.len().is_multiple_of(2) {
        return Err(Fault::NotHex);
    }
    out.push(b'"');
    let mut piece = [0; PIECE_BYTES];
    for digits in digits.chunks(2 * PIECE_BYTES) {
        for (byte, pair) in piece.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (nibble(pair[0]), nibble(pair[1]));
            if high > 15 || low > 15 {
                return Err(Fault::NotHex);
            }
            *byte = high << 4 | low;
        }
        push_base64_piece(out, &piece[..digits.len() / 2]);
    }
    out.push(b'"');
    Ok(())
}

/// The value of a hexadecimal digit; above 15 for any other byte.
fn nibble(digit: u8) -> u8 {
    const NIBBLES: [u8; 256] = {
        let mut table = [0xFF; 256];
        let mut value = 0;
        while value < 16 {
            table[b"0123456789abcdef"[value] as usize] = value as u8;
            table[b"0123456789ABCDEF"[value] as usize] = value as u8;
            value += 1;
        }
        table
    };
    NIBBLES[usize::from(digit)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pushed(form: &Form, text: &[u8]) -> Result<String, Fault> {
        let mut out = Vec::new();
        push_value(&mut out, form, text, &mut Scratch::default())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_value_is_what_postgres_can_read_back() {
        for (form, text, json) in [
            (Form::Number, "-32768", "-32768"),
            (Form::Number, "9223372036854775807", "9223372036854775807"),
            (Form::Number, "9007199254740993", "9007199254740993"),
            (Form::Number, "4294967295", "4294967295"),
            (Form::Number, "3.14", "3.14"),
            (Form::Number, "1e+20", "1e+20"),
            (Form::Number, "1e-05", "1e-05"),
            (Form::Number, "-0", "-0"),
            (Form::Number, "NaN", r#""NaN""#),
            (Form::Number, "Infinity", r#""Infinity""#),
            (Form::Number, "-Infinity", r#""-Infinity""#),
            (Form::Number, "12,\"x\":1", r#""12,\"x\":1""#),
            (Form::Bool, "t", "true"),
            (Form::Bool, "f", "false"),
            (Form::Bool, "true", r#""true""#),
            (Form::Text, "", r#""""#),
            (Form::Text, "ab   ", r#""ab   ""#),
            (Form::Text, "0.1000000000000000000000000000000001", r#""0.1000000000000000000000000000000001""#),
            (Form::Text, "{\"a\":  1e400}", r#""{\"a\":  1e400}""#),
            (Form::Text, "2024-03-01", r#""2024-03-01""#),
            (Form::Text, "24:00:00", r#""24:00:00""#),
            (Form::Text, "\u{1}\u{7f}", "\"\\u0001\u{7f}\""),
            (Form::Timestamp, "2024-03-01 10:34:56.789012", r#""2024-03-01T10:34:56.789012""#),
            (Form::Timestamp, "-infinity", r#""-infinity""#),
            (Form::TimestampTz, "2024-03-01 10:34:56.789+00", r#""2024-03-01T10:34:56.789Z""#),
            (Form::TimestampTz, "0044-03-15 10:00:00+00 BC", r#""0044-03-15 10:00:00+00 BC""#),
            (Form::TimestampTz, "294276-12-31 23:59:59+00", r#""294276-12-31 23:59:59+00""#),
            (Form::TimeTz, "11:51:30.1+00", r#""11:51:30.1Z""#),
            (Form::TimeTz, "24:00:00+00", r#""24:00:00+00""#),
            (Form::Bytea, "\\x", r#""""#),
            (Form::Bytea, "\\x0001027fFf", r#""AAECf/8=""#),
            (Form::Array { element: Box::new(Form::Number), delimiter: b',' }, "[0:1]={7,8}", r#""[0:1]={7,8}""#),
        ] {
            assert_eq!(pushed(&form, text.as_bytes()).as_deref(), Ok(json), "{form:?}");
        }
    }

    #[test]
    fn bytea_longer_than_a_piece_is_padded_once() {
        for length in [767, 768, 769, 1536, 2000] {
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let expected = format!("\"{}\"", BASE64.encode(&bytes));
            assert_eq!(pushed(&Form::Bytea, format!("\\x{hex}").as_bytes()), Ok(expected));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(pushed(&Form::Text, b"\xff"), Err(Fault::NotUtf8));
        assert_eq!(pushed(&Form::Number, b"1\xff"), Err(Fault::NotUtf8));
        let array = Form::Array { element: Box::new(Form::Text), delimiter: b',' };
        assert_eq!(pushed(&array, b"{a,\xe9}"), Err(Fault::NotUtf8));
        for text in ["", "abc", "\\x0", "\\xzz", "\\x00é"] {
            assert_eq!(pushed(&Form::Bytea, text.as_bytes()), Err(Fault::NotHex), "{text}");
        }
    }

    fn any_form() -> impl Strategy<Value = Form> {
        let scalar = prop_oneof![
            Just(Form::Text),
            Just(Form::Number),
            Just(Form::Bool),
            Just(Form::Timestamp),
            Just(Form::TimestampTz),
            Just(Form::TimeTz),
            Just(Form::Bytea),
        ];
        scalar.prop_recursive(2, 4, 1, |element| {
            (element, prop_oneof![Just(b','), Just(b';')])
                .prop_map(|(element, delimiter)| Form::Array { element: Box::new(element), delimiter })
        })
    }

    proptest! {
        #[test]
        fn any_text_in_any_form_is_valid_json(
            form in any_form(),
            text in prop_oneof!["(?s).{0,40}", r#"[{}",;\\0-9a-fNULxT:+ -]{0,30}"#, r#"\{("[ab\\]*"|NULL|1|\{1\})(,("\\\\x00"|2|t)){0,3}\}"#],
        ) {
            if let Ok(json) = pushed(&form, text.as_bytes()) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", json);
            }
        }

        #[test]
        fn any_bytes_in_any_form_are_valid_json_or_refused(form in any_form(), text: Vec<u8>) {
            if let Ok(json) = pushed(&form, &text) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", json);
            }
        }
    }
}
