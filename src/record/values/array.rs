//! Converts PostgreSQL's array text to a JSON array.
//!
//! ```text
//! array   = '{' [ element { delimiter element } ] '}'
//! element = 'NULL' | '"' { character | '\' character } '"' | { character }
//! ```
//!
//! Source: PostgreSQL documentation, "8.15.6 Array Input and Output Syntax". The server quotes an element that is
//! empty, that spells NULL, or that contains a brace, the delimiter, a quote, a backslash or white space. Arrays with
//! several dimensions or explicit bounds (`[0:1]={7,8}`) are not converted, because a JSON array could not be converted
//! back to them.

use crate::record::error::Fault;
use crate::record::values::form::Form;
use crate::record::values::{Scratch, push_value};

/// Appends a JSON array of the element's form.
///
/// Returns false and appends nothing if the text is not a one-dimensional array with default bounds.
pub(in crate::record) fn push_array(
    out: &mut Vec<u8>,
    element: &Form,
    delimiter: u8,
    text: &[u8],
    scratch: &mut Scratch,
) -> Result<bool, Fault> {
    let start = out.len();
    let taken = push_elements(out, element, delimiter, text, scratch)?;
    if !taken {
        out.truncate(start);
    }
    Ok(taken)
}

fn push_elements(
    out: &mut Vec<u8>,
    form: &Form,
    delimiter: u8,
    text: &[u8],
    scratch: &mut Scratch,
) -> Result<bool, Fault> {
    let Some(mut rest) = text.strip_prefix(b"{") else { return Ok(false) };
    out.push(b'[');
    if rest == b"}" {
        out.push(b']');
        return Ok(true);
    }
    loop {
        let Some((element, after)) = Element::split(rest, delimiter) else { return Ok(false) };
        element.push(out, form, scratch)?;
        match after {
            [b'}'] => {
                out.push(b']');
                return Ok(true);
            }
            [byte, after @ ..] if *byte == delimiter => {
                out.push(b',');
                rest = after;
            }
            _ => return Ok(false),
        }
    }
}

/// An element as written in the array's text.
enum Element<'a> {
    Null,
    /// The text without escapes.
    Plain(&'a [u8]),
    /// The text inside the quotes; its backslashes must be removed.
    Escaped(&'a [u8]),
}

impl<'a> Element<'a> {
    /// Splits the first element from the rest; returns `None` if the text is not an array or a brace begins another
    /// dimension.
    fn split(text: &'a [u8], delimiter: u8) -> Option<(Self, &'a [u8])> {
        let Some(quoted) = text.strip_prefix(b"\"") else {
            let length = text.iter().position(|byte| *byte == delimiter || *byte == b'}')?;
            let (element, after) = text.split_at_checked(length)?;
            if element.is_empty() || element.iter().any(|byte| matches!(byte, b'{' | b'"' | b'\\')) {
                return None;
            }
            return Some((if element == b"NULL" { Element::Null } else { Element::Plain(element) }, after));
        };
        let mut end = 0;
        let mut escaped = false;
        loop {
            match quoted.get(end)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    end += 2;
                }
                _ => end += 1,
            }
        }
        let (element, after) = (quoted.get(..end)?, quoted.get(end + 1..)?);
        Some((if escaped { Element::Escaped(element) } else { Element::Plain(element) }, after))
    }

    fn push(self, out: &mut Vec<u8>, form: &Form, scratch: &mut Scratch) -> Result<(), Fault> {
        match self {
            Element::Null => out.extend_from_slice(b"null"),
            Element::Plain(text) => push_value(out, form, text, scratch)?,
            Element::Escaped(text) => {
                let mut unescaped = scratch.take();
                let mut bytes = text.iter();
                while let Some(byte) = bytes.next() {
                    unescaped.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
                }
                let pushed = push_value(out, form, &unescaped, scratch);
                scratch.give_back(unescaped);
                pushed?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(form: &Form, delimiter: u8, text: &str) -> Option<String> {
        let mut out = b"kept".to_vec();
        let taken = push_array(&mut out, form, delimiter, text.as_bytes(), &mut Scratch::default()).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(taken || out == "kept", "a rejected text must append nothing");
        taken.then(|| out.strip_prefix("kept").unwrap().to_owned())
    }

    #[test]
    fn one_dimension_with_default_bounds_becomes_a_json_array() {
        let nested = Form::Array { element: Box::new(Form::Number), delimiter: b',' };
        for (form, delimiter, text, json) in [
            (&Form::Number, b',', "{}", "[]"),
            (&Form::Number, b',', "{1,NULL,3}", "[1,null,3]"),
            (&Form::Number, b',', "{1.5,NaN,-Infinity}", r#"[1.5,"NaN","-Infinity"]"#),
            (&Form::Bool, b',', "{t,f}", "[true,false]"),
            (&Form::Text, b',', r#"{a,"b c","","NULL",NULL,"q\"\\",é}"#, r#"["a","b c","","NULL",null,"q\"\\","é"]"#),
            (&Form::Text, b',', r#"{"{1}","a,b","\\}"}"#, r#"["{1}","a,b","\\}"]"#),
            (&Form::Text, b';', "{(1,1),(0,0);(3,3),(2,2)}", r#"["(1,1),(0,0)","(3,3),(2,2)"]"#),
            (&Form::TimestampTz, b',', r#"{"2024-03-01 10:34:56+00"}"#, r#"["2024-03-01T10:34:56Z"]"#),
            (&Form::Bytea, b',', r#"{"\\x0001ff","\\x"}"#, r#"["AAH/",""]"#),
            (&nested, b',', r#"{"{1,2}","{}",NULL}"#, "[[1,2],[],null]"),
            (&nested, b',', r#"{"{{1},{2}}"}"#, r#"["{{1},{2}}"]"#),
        ] {
            assert_eq!(pushed(form, delimiter, text).as_deref(), Some(json));
        }
    }

    #[test]
    fn a_text_that_json_could_not_give_back_is_not_converted() {
        for text in [
            "{{1,2},{3,4}}",
            "[0:1]={7,8}",
            "{{}}",
            "",
            "{",
            "}",
            "{1",
            "{1,",
            "{1,}",
            "{,1}",
            "{1}x",
            "{\"1",
            "{\"1\\",
            "{\"1\"x}",
            "{1\"2\"}",
            "{1\\2}",
            "1 2 3",
        ] {
            assert_eq!(pushed(&Form::Text, b',', text), None, "{text}");
        }
    }
}
