//! A request for snapshots: the content of a logical message with the prefix `walcat.snapshot`.

use serde::{Deserialize, Serialize};

/// A request. Every stream of the database receives it; only that of its slot obeys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The slot.
    pub slot: String,
    /// What to do.
    pub request: Kind,
    /// The patterns of the tables; all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read tables.
    Start,
    /// Read no more chunks until the request to resume.
    Pause,
    /// Read on.
    Resume,
    /// Forget the tables that are left.
    Stop,
}

impl Kind {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Start => "start",
            Kind::Pause => "pause",
            Kind::Resume => "resume",
            Kind::Stop => "stop",
        }
    }
}

impl Request {
    /// The content of the message.
    #[must_use]
    pub fn render(&self) -> String {
        serde_json::to_string(self).expect("strings can be written as JSON")
    }

    /// Reads the content of a message.
    ///
    /// # Errors
    /// If it is no request.
    pub fn parse(content: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written_and_more_fields_do_not_matter() {
        let request = Request { slot: "s".to_owned(), request: Kind::Start, tables: vec!["public.*".to_owned()] };
        let text = request.render();
        assert_eq!(text, r#"{"slot":"s","request":"start","tables":["public.*"]}"#);
        assert_eq!(Request::parse(text.as_bytes()).unwrap(), request);
        let more = br#"{"slot":"s","request":"pause","later":1}"#;
        assert_eq!(Request::parse(more).unwrap().request, Kind::Pause);
        for content in ["", "start", "{}", r#"{"slot":"s","request":"begin"}"#] {
            assert!(Request::parse(content.as_bytes()).is_err(), "{content}");
        }
    }
}
