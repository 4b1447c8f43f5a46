//! JSON strings and numbers, appended to a buffer.
//!
//! walcat does not use json-escape-simd: it reserves six times the length of a string in advance, so a text of 100 MB
//! needs a buffer of 600 MB. walcat's code is only a little slower. Measured, walcat's code against json-escape-simd: 6 ns
//! against 4 to 11 ns for 6 bytes, 10 against 6 for 100 bytes, 75 against 27 for 1,000 bytes.

/// The number of bytes checked together: four words, which the compiler vectorizes.
const BLOCK_BYTES: usize = 32;

/// Appends a JSON string with its quotes.
pub(in crate::record) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Appends the content of a JSON string: escapes `"`, `\` and control characters, and copies everything else.
pub(in crate::record) fn push_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let plain = plain_prefix(text);
        out.extend_from_slice(&text[..plain]);
        let Some(&byte) = text.get(plain) else { return };
        push_escape(out, byte);
        text = &text[plain + 1..];
    }
}

#[cold]
fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0C => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// The number of bytes at the beginning that need no escape: checks blocks, then words, then bytes.
fn plain_prefix(text: &[u8]) -> usize {
    let (blocks, _) = text.as_chunks::<BLOCK_BYTES>();
    let mut plain = blocks.iter().take_while(|block| is_plain(block)).count() * BLOCK_BYTES;
    let (words, rest) = text[plain..].as_chunks::<8>();
    for word in words {
        let hits = escapes_in_word(u64::from_le_bytes(*word));
        if hits != 0 {
            return plain + hits.trailing_zeros() as usize / 8;
        }
        plain += 8;
    }
    plain + rest.iter().position(|byte| needs_escape(*byte)).unwrap_or(rest.len())
}

fn is_plain(block: &[u8; BLOCK_BYTES]) -> bool {
    let (words, _) = block.as_chunks::<8>();
    words.iter().fold(0, |hits, word| hits | escapes_in_word(u64::from_le_bytes(*word))) == 0
}

/// The high bit of each byte that needs an escape, as in "Bit Twiddling Hacks: determine if a word has a byte less than
/// n". False hits occur only above a true hit, so the lowest hit is always true.
fn escapes_in_word(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let quote = word ^ (ONES * u64::from(b'"'));
    let backslash = word ^ (ONES * u64::from(b'\\'));
    let hits = (word.wrapping_sub(ONES * 0x20) & !word)
        | (quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash);
    hits & (ONES * 0x80)
}

fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Appends an integer in decimal.
pub(in crate::record) fn push_integer(out: &mut Vec<u8>, integer: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
}

/// Whether a text is a JSON number: `-? (0 | [1-9][0-9]*) ('.' [0-9]+)? ([eE] [+-]? [0-9]+)?`.
pub(in crate::record) fn is_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (integer, rest) = digits(text);
    if integer == 0 || (integer > 1 && text[0] == b'0') {
        return false;
    }
    let rest = match rest.split_first() {
        Some((b'.', fraction)) => match digits(fraction) {
            (0, _) => return false,
            (_, rest) => rest,
        },
        _ => rest,
    };
    match rest.split_first() {
        None => true,
        Some((b'e' | b'E', exponent)) => {
            let unsigned = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
            matches!(digits(unsigned), (1.., []))
        }
        Some(_) => false,
    }
}

fn digits(text: &[u8]) -> (usize, &[u8]) {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count, &text[count..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str) -> String {
        let mut out = Vec::new();
        push_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_quotes_backslashes_and_control_characters_are_escaped() {
        for (text, json) in [
            ("", r#""""#),
            ("plain / slash", r#""plain / slash""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\u{8}\u{c}\n\r\t", r#""\b\f\n\r\t""#),
            ("\0\u{1f}\u{7f}", "\"\\u0000\\u001F\u{7f}\""),
            ("é€😀\u{2028}", "\"é€😀\u{2028}\""),
            ("12345678\"", r#""12345678\"""#),
            ("1234567\n12345678\u{1}", r#""1234567\n12345678\u0001""#),
        ] {
            assert_eq!(string(text), json);
        }
    }

    #[test]
    fn a_number_is_what_json_calls_one() {
        for text in ["0", "-0", "7", "-9223372036854775808", "1.5", "0.1", "1e+20", "1E5", "1e-05", "-1.5e300"] {
            assert!(is_number(text.as_bytes()), "{text}");
        }
        for text in [
            "", "-", "+1", "01", "-01", ".5", "1.", "1e", "1e+", "NaN", "Infinity", "1 ", " 1", "1,2", "0x1", "1.e5",
            "--1",
        ] {
            assert!(!is_number(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_from_its_json_string(text in "(?s).*") {
            prop_assert_eq!(serde_json::from_str::<String>(&string(&text)).unwrap(), text);
        }

        #[test]
        fn any_number_is_one_for_serde_json_too(text in "-?[0-9.eE+-]{0,8}") {
            // Compares the grammar only: 1e310 is a JSON number, although no float can represent it.
            let is_json = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text).is_ok();
            prop_assert_eq!(is_number(text.as_bytes()), is_json);
        }
    }
}
