//! Text of others on its way to people: what would move, hide or reorder anything on a terminal or a page is escaped.
//!
//! It is done where text is written (the log's lines, what the command line prints, the page), so that nobody who puts a
//! client's or a source's words into a message has to think of it.

use std::{borrow::Cow, fmt::Write as _};

/// What our own output is coloured with: anything else that begins like it is not ours.
const STYLES: [&str; 15] = ["0", "1", "2", "3", "4", "30", "31", "32", "33", "34", "35", "36", "37", "39", "90"];

/// Whether a character is not what a reader sees: controls, line and paragraph separators, what changes the direction
/// of text, and what takes no room.
#[must_use]
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}'
    )
}

/// One line: every hidden character as `\u{202e}`, `\n` or the like.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    rewritten(text, is_hidden, rust)
}

/// Several lines: line breaks and tabs stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    rewritten(text, |c| is_hidden(c) && c != '\n' && c != '\t', rust)
}

/// A JSON text: what may stay inside its strings as it is, and must not, is escaped as JSON does.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    rewritten(
        text,
        |c| is_hidden(c) && !c.is_ascii_control() || c == '\x7f',
        |out, c| {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

/// Several lines of our own with colours: those stay, and what others have put between them does not.
#[must_use]
pub fn styled(text: &str) -> Cow<'_, str> {
    with_styles(text, lines)
}

/// The same for one line.
#[must_use]
pub fn styled_line(text: &str) -> Cow<'_, str> {
    with_styles(text, line)
}

fn with_styles<'a>(text: &'a str, escape: impl Fn(&str) -> Cow<'_, str>) -> Cow<'a, str> {
    if !text.contains('\x1b') {
        return Cow::Owned(escape(text).into_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('\x1b');
    out.push_str(&escape(parts.next().unwrap_or_default()));
    for part in parts {
        match style(part) {
            Some((style, rest)) => {
                out.push('\x1b');
                out.push_str(style);
                out.push_str(&escape(rest));
            }
            None => {
                rust(&mut out, '\x1b');
                out.push_str(&escape(part));
            }
        }
    }
    out.into()
}

/// Divides what follows an escape character into one of our styles and the rest.
fn style(part: &str) -> Option<(&str, &str)> {
    let end = part.find('m')?;
    let (style, rest) = part.split_at(end + 1);
    let numbers = style.strip_prefix('[')?.strip_suffix('m')?;
    numbers.split(';').all(|number| STYLES.contains(&number)).then_some((style, rest))
}

fn rust(out: &mut String, c: char) {
    out.extend(c.escape_default());
}

fn rewritten(text: &str, bad: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let Some((first, _)) = text.char_indices().find(|(_, c)| bad(*c)) else { return text.into() };
    let (clean, rest) = text.split_at(first);
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(clean);
    for c in rest.chars() {
        if bad(c) { escape(&mut out, c) } else { out.push(c) }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_escaped_and_the_rest_stays() {
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain('\u{200b}'..='\u{200f}').chain([
            '\u{feff}',
            '\u{2028}',
            '\u{2029}',
            '\u{e0041}',
            '\x07',
            '\x1b',
            '\u{9b}',
            '\u{85}',
            '\x7f',
            '\r',
        ]) {
            let text = format!("a{c}b");
            assert!(is_hidden(c));
            assert!(line(&text).is_ascii() && lines(&text).is_ascii() && styled(&text).is_ascii(), "{c:?}");
            assert!(!line(&text).contains(c));
        }
        for text in ["", "spiffe://example.org/web", "größe 日本語 🦀 שלום", "a\"b\\c"] {
            assert_eq!(line(text), text);
        }
        assert_eq!(line("a\u{202e}b\nc"), "a\\u{202e}b\\nc");
        assert_eq!(lines("a\tb\nc\rd"), "a\tb\nc\\rd");
    }

    #[test]
    fn json_stays_json() {
        let text = "a\u{202e}\u{e0041}\x7fb \n \u{9b}[0m";
        let json = super::json(&serde_json::to_string(text).unwrap()).into_owned();
        assert!(json.is_ascii() && !json.contains('\x7f'), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        let pretty = "{\n  \"a\": 1\n}\n";
        assert_eq!(super::json(pretty), pretty);
    }

    #[test]
    fn our_colours_stay_and_nothing_else_that_a_terminal_obeys() {
        let ours = "\x1b[1m\x1b[32mvalid\x1b[0m\n";
        assert_eq!(styled(ours), ours);
        assert_eq!(
            styled("\x1b[2Jgone\x1b[8mhidden\x1b]0;title\x07"),
            "\\u{1b}[2Jgone\\u{1b}[8mhidden\\u{1b}]0;title\\u{7}"
        );
        assert_eq!(styled("cut \x1b"), "cut \\u{1b}");
    }
}
