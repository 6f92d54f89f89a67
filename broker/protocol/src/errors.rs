//! What a client may be told when its request is not carried out: a code of the registry and the particular case.

use std::fmt;

use crate::control;

include!(concat!(env!("OUT_DIR"), "/errors.rs"));

/// What a client can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Advice {
    /// The request is wrong and stays wrong: change it.
    Fix,
    /// The same request may succeed later: send it again.
    Retry,
    /// This broker will not do it: ask its operator, or another broker.
    Elsewhere,
}

impl Advice {
    /// The number on the wire: 1 fix, 2 retry, 3 elsewhere.
    pub const fn number(self) -> u32 {
        match self {
            Self::Fix => 1,
            Self::Retry => 2,
            Self::Elsewhere => 3,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fix => "fix the request",
            Self::Retry => "try again later",
            Self::Elsewhere => "ask the operator",
        })
    }
}

/// A request, or one message of it, that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", .code.name())]
pub struct Refusal {
    /// Which error of the registry.
    pub code: ErrorCode,
    /// The particular case: lower case, what then why, no period.
    pub text: String,
    /// The byte place, from 0, in a refused expression.
    pub at: Option<u32>,
}

impl Refusal {
    /// A refusal with the text of this particular case.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            at: None,
        }
    }

    /// A refusal of which there is no more to say than the registry does.
    pub fn plain(code: ErrorCode) -> Self {
        Self::new(code, code.text())
    }

    /// The same refusal, pointing at a byte of the refused expression.
    #[must_use]
    pub fn at(self, place: u32) -> Self {
        Self { at: Some(place), ..self }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::plain(code)
    }
}

impl From<Refusal> for control::Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: u32::from(refusal.code as u16),
            name: refusal.code.name().to_owned(),
            advice: refusal.code.advice().number(),
            at: refusal.at.map_or(0, |place| place.saturating_add(1)),
            text: refusal.text,
        }
    }
}

/// A code of a newer broker becomes the known code with the same advice that promises least; its name goes into the text.
impl From<control::Refused> for Refusal {
    fn from(wire: control::Refused) -> Self {
        let at = wire.at.checked_sub(1);
        match u16::try_from(wire.code).ok().and_then(ErrorCode::from_code) {
            Some(code) => Self { code, text: wire.text, at },
            None => {
                let code = match wire.advice {
                    1 => ErrorCode::LimitExceeded,
                    2 => ErrorCode::Overloaded,
                    _ => ErrorCode::Internal,
                };
                Self {
                    code,
                    text: format!("{}: {}", wire.name, wire.text),
                    at,
                }
            }
        }
    }
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_number() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(code));
            assert!(!code.name().is_empty() && !code.text().ends_with('.'));
        }
        assert_eq!(ErrorCode::from_code(0), None);
    }

    #[test]
    fn a_refusal_survives_the_wire() {
        for refusal in [
            Refusal::new(ErrorCode::BadExpression, "unexpected ')'").at(0),
            Refusal::plain(ErrorCode::NoSuchTopic),
        ] {
            assert_eq!(Refusal::from(control::Refused::from(refusal.clone())), refusal);
        }
    }

    #[test]
    fn a_code_of_a_newer_broker_keeps_its_advice() {
        let wire = control::Refused {
            code: 60_000,
            name: "Novel".into(),
            advice: 2,
            text: "later".into(),
            at: 0,
        };
        let refusal = Refusal::from(wire);
        assert_eq!(refusal.code.advice(), Advice::Retry);
        assert_eq!(refusal.text, "Novel: later");
    }
}
