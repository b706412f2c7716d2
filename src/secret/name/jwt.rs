//! Names of tokens.
//!
//! ```text
//!   name     = form ":" audience *( "," audience ) [ ";id=" SPIFFE-ID / ";hint=" hint ]
//!   form     = "jwt"          ; the token alone
//!            / "jwt-bearer"   ; "Bearer " and the token, for an Envoy before 1.37, which adds no prefix
//!   audience = 1*( any printable ASCII but "%", "," and ";" / "%" HEXDIG HEXDIG )
//!   hint     = as audience
//! ```
//!
//! Audiences stand in the order of their bytes, each once; what is not printable ASCII, and the three delimiters, are
//! percent-encoded in upper case (of UTF-8), and nothing else is, but that every dot may be `%2E`. So a token has two
//! names for each form, and two names never differ only in spelling.

use std::{collections::BTreeSet, fmt};

use crate::identity::{Hint, JwtRequest, JwtSubject, SpiffeId};

/// How a token is written into its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenForm {
    /// The token alone.
    Raw,
    /// `Bearer ` and the token: the value of an `Authorization` header.
    Bearer,
}

impl TokenForm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Bearer];

    const fn word(self) -> &'static str {
        match self {
            Self::Raw => "jwt",
            Self::Bearer => "jwt-bearer",
        }
    }
}

/// The name of a token: which one, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JwtName {
    /// How it is written into its secret.
    pub form: TokenForm,
    /// Whose, and for whom.
    pub request: JwtRequest,
}

impl JwtName {
    /// Reads a name with its dots as dots; `None` for what is no name of a token, or not spelt as it must be.
    #[must_use]
    pub(in crate::secret) fn parse(name: &str) -> Option<Self> {
        let (word, rest) = name.split_once(':')?;
        let form = TokenForm::ALL.into_iter().find(|form| form.word() == word)?;
        let (audiences, subject) = rest.split_once(';').map_or((rest, None), |(rest, subject)| (rest, Some(subject)));
        let audience: BTreeSet<String> = audiences.split(',').map(decode).collect::<Option<_>>()?;
        let subject = match subject.map(|subject| subject.split_once('=')) {
            None => JwtSubject::Default,
            Some(Some(("id", id))) => JwtSubject::Id(SpiffeId::new(id).ok()?),
            Some(Some(("hint", hint))) => JwtSubject::Hint(Hint::new(&decode(hint)?)?),
            Some(_) => return None,
        };
        let parsed = Self { form, request: JwtRequest { subject, audience } };
        // Order, repetition, case and needless escapes: whatever was read differently than it would be written.
        (parsed.to_string() == name).then_some(parsed)
    }
}

/// The name with its dots as dots.
impl fmt::Display for JwtName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audiences: Vec<_> = self.request.audience.iter().map(|audience| encode(audience)).collect();
        write!(f, "{}:{}", self.form.word(), audiences.join(","))?;
        match &self.request.subject {
            JwtSubject::Default => Ok(()),
            JwtSubject::Id(id) => write!(f, ";id={id}"),
            JwtSubject::Hint(hint) => write!(f, ";hint={}", encode(hint.as_str())),
        }
    }
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b',' | b';');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `None` for the empty text, broken escapes and what is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next()?.bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part.get(2..)?.bytes());
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(form: TokenForm, audience: &[&str], subject: JwtSubject) -> JwtName {
        let audience = audience.iter().map(|&it| it.to_owned()).collect();
        JwtName { form, request: JwtRequest { subject, audience } }
    }

    #[test]
    fn names_and_what_they_denote() {
        let id = JwtSubject::Id(SpiffeId::new("spiffe://example.org/web").unwrap());
        let hint = |hint| JwtSubject::Hint(Hint::new(hint).unwrap());
        for (text, denoted) in [
            ("jwt:payments", name(TokenForm::Raw, &["payments"], JwtSubject::Default)),
            ("jwt-bearer:payments", name(TokenForm::Bearer, &["payments"], JwtSubject::Default)),
            ("jwt:a,b", name(TokenForm::Raw, &["b", "a"], JwtSubject::Default)),
            (
                "jwt:https://api.example/x?y=1&z",
                name(TokenForm::Raw, &["https://api.example/x?y=1&z"], JwtSubject::Default),
            ),
            ("jwt:a;id=spiffe://example.org/web", name(TokenForm::Raw, &["a"], id)),
            ("jwt:a;hint=in%3Bternal", name(TokenForm::Raw, &["a"], hint("in;ternal"))),
            ("jwt:a%2Cb,%C3%BC%20%25", name(TokenForm::Raw, &["a,b", "ü %"], JwtSubject::Default)),
        ] {
            // "%" sorts before letters, so the last one is written the other way round.
            let written = denoted.to_string();
            assert_eq!(JwtName::parse(&written), Some(denoted.clone()), "{written}");
            if !text.contains("%2C") {
                assert_eq!(written, text);
            }
        }
    }

    #[test]
    fn everything_else_denotes_nothing() {
        for text in [
            "jwt",
            "jwt:",
            "jwt:,",
            "jwt:a,",
            "jwt:b,a",
            "jwt:a,a",
            "JWT:a",
            "jwt-basic:a",
            "jwt:a;",
            "jwt:a;id=",
            "jwt:a;id=web",
            "jwt:a;hint=",
            "jwt:a;aud=b",
            "jwt:a;hint=x;hint=y",
            "jwt:a;id=spiffe://EXAMPLE.org/w",
            "jwt:%61",
            "jwt:a%2c",
            "jwt:a%",
            "jwt:a%G0",
            "jwt:a b",
            "jwt:ü",
            "jwt:%FF",
            "jwt:a%+1",
            "jwt:a\n",
        ] {
            assert_eq!(JwtName::parse(text), None, "{text:?}");
        }
    }
}
