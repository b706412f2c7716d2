//! Classes of characters: `[a-z]`, `[[:alpha:]]`, `\d`, `\pL`.

use super::{Re2Error, after, escaped, groups::GROUPS};

/// Names between `[:` and `:]`.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// Reads a `[...]`.
pub(super) fn skip(rest: &mut &str) -> Result<(), Re2Error> {
    let mut inner = after(rest, 1);
    inner = inner.strip_prefix('^').unwrap_or(inner);
    // A `]` that comes first is one of the characters.
    let mut first = true;
    while first || !inner.starts_with(']') {
        first = false;
        if inner.is_empty() {
            return Err(Re2Error::MissingBracket);
        }
        if posix(&mut inner)? || inner.starts_with('\\') && shorthand(&mut inner)? {
            continue;
        }
        let start = inner;
        let low = character(&mut inner)?;
        let high = inner.strip_prefix('-').filter(|behind| !behind.starts_with(']') && !behind.is_empty());
        if let Some(mut behind) = high {
            let high = character(&mut behind)?;
            if high.code < low.code || high.first < low.last {
                let range = start.get(..start.len() - behind.len()).unwrap_or_default();
                return Err(Re2Error::Class(range.to_owned()));
            }
            inner = behind;
        }
    }
    *rest = after(inner, 1);
    Ok(())
}

/// Reads `[:name:]`. A `[:` that nothing closes stands for itself.
fn posix(rest: &mut &str) -> Result<bool, Re2Error> {
    let Some((name, behind)) = rest.strip_prefix("[:").and_then(|inner| inner.split_once(":]")) else {
        return Ok(false);
    };
    if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
        return Err(Re2Error::Class(format!("[:{}:]", name.chars().take(32).collect::<String>())));
    }
    *rest = behind;
    Ok(true)
}

/// One end of a range.
struct End {
    code: u32,
    /// The same where each byte is a character: the first of them, and the last.
    first: u32,
    last: u32,
}

fn character(rest: &mut &str) -> Result<End, Re2Error> {
    let next = rest.chars().next().ok_or(Re2Error::MissingBracket)?;
    if next == '\\' {
        let code = escaped(rest)?;
        return Ok(End { code, first: code, last: code });
    }
    *rest = after(rest, next.len_utf8());
    let mut bytes = [0; 4];
    let bytes = next.encode_utf8(&mut bytes).bytes();
    let (first, last) = (bytes.clone().next().unwrap_or_default(), bytes.last().unwrap_or_default());
    Ok(End { code: u32::from(next), first: u32::from(first), last: u32::from(last) })
}

/// Reads `\d` and its kin, `\pL` or `\p{Greek}`; `false` for any other escape.
pub(super) fn shorthand(rest: &mut &str) -> Result<bool, Re2Error> {
    let inner = after(rest, 1);
    match inner.chars().next() {
        Some('d' | 'D' | 's' | 'S' | 'w' | 'W') => *rest = after(inner, 1),
        Some('p' | 'P') => {
            let name = after(inner, 1);
            let (name, behind) = match name.strip_prefix('{') {
                Some(braced) => braced.split_once('}').unwrap_or_default(),
                None => name.split_at(name.chars().next().map_or(0, char::len_utf8)),
            };
            let known = name.strip_prefix('^').unwrap_or(name);
            if known != "Any" && GROUPS.binary_search(&known).is_err() {
                return Err(Re2Error::Class(format!("\\p{{{}}}", known.chars().take(32).collect::<String>())));
            }
            *rest = behind;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
