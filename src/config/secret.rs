//! Values that may be secret: read from a file or a variable, and never printed.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::error::SecretError;

/// What is printed instead of a secret.
pub const MASK: &str = "********";

/// The maximum size of the file of a `file:` value.
const SECRET_FILE_BYTES_MAX: u64 = 1 << 20;

/// Looks up an environment variable. It is a closure, so that a test need not change the environment of the process.
pub type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// A text that may be secret. Neither `Debug` nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text, for the library that needs it. Never print it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Where to read a value from.
enum Reference<'a> {
    File(&'a str),
    Environment(&'a str),
}

fn reference(value: &str) -> Option<Reference<'_>> {
    let file = value.strip_prefix("file:").map(Reference::File);
    file.or_else(|| value.strip_prefix("env:").map(Reference::Environment))
}

/// Whether `value` only names a file or a variable, which is not secret.
#[must_use]
pub fn is_reference(value: &str) -> bool {
    reference(value).is_some()
}

/// The content of the file or variable that `file:PATH` or `env:NAME` names, without its last line end; otherwise `value`.
pub fn read(value: &str, environment: &Environment<'_>) -> Result<Secret, SecretError> {
    let mut text = match reference(value) {
        None => return Ok(Secret::new(value)),
        Some(Reference::File(path)) => read_file(PathBuf::from(path))?,
        Some(Reference::Environment(name)) => match environment(name).map(OsString::into_string) {
            Some(Ok(text)) => text,
            Some(Err(_)) => {
                return Err(SecretError::NotUtf8 { what: format!("the environment variable {name}") });
            }
            None => return Err(SecretError::Unset { name: name.to_owned() }),
        },
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(Secret(text))
}

fn read_file(path: PathBuf) -> Result<String, SecretError> {
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(SECRET_FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(SecretError::File { path, source }),
        Ok(_) if bytes.len() as u64 > SECRET_FILE_BYTES_MAX => {
            Err(SecretError::TooLong { path, bytes_max: SECRET_FILE_BYTES_MAX })
        }
        Ok(_) => String::from_utf8(bytes).map_err(|_| SecretError::NotUtf8 { what: path.display().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn no_environment(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn a_value_is_itself_unless_it_says_where_it_is_kept() {
        for value in ["", "hunter2", "files:x", " env:X", "PLAIN"] {
            assert!(!is_reference(value));
            assert_eq!(read(value, &no_environment).expect(value).expose(), value);
        }
    }

    #[test]
    fn a_file_is_read_without_its_last_line_end() {
        for (content, wanted) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a b \n", " a b "), ("", "")]
        {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(content.as_bytes()).expect("written");
            let value = format!("file:{}", file.path().display());
            assert_eq!(read(&value, &no_environment).expect("read").expose(), wanted, "{content:?}");
        }
    }

    #[test]
    fn a_variable_is_read() {
        let environment = |name: &str| (name == "PW").then(|| OsString::from("hunter2"));
        assert_eq!(read("env:PW", &environment).expect("read").expose(), "hunter2");
        let error = read("env:PV", &environment).expect_err("not set");
        assert_eq!(error.to_string(), "the environment variable PV is not set");
    }

    #[test]
    fn what_cannot_be_read_says_so_without_its_content() {
        let error = read("file:/nonexistent/pw", &no_environment).expect_err("no file");
        assert_eq!(error.to_string(), "cannot read /nonexistent/pw: No such file or directory (os error 2)");

        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"hunter2\xFF").expect("written");
        let error = read(&format!("file:{}", file.path().display()), &no_environment).expect_err("no UTF-8");
        assert!(error.to_string().ends_with("is not valid UTF-8") && !format!("{error:?}").contains("hunter2"));

        file.write_all(&vec![b'a'; 1 << 20]).expect("written");
        let error = read(&format!("file:{}", file.path().display()), &no_environment).expect_err("too long");
        assert!(error.to_string().ends_with("is longer than 1048576 bytes"), "{error}");
    }

    #[test]
    fn debug_does_not_show_a_secret() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(********)");
    }
}
