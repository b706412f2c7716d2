//! Whether a text is a regular expression for Envoy, which takes RE2's dialect: <https://github.com/google/re2/wiki/Syntax>.
//!
//! The crate `regex` speaks another one: it takes `\u{63}`, `(?x)` and `a{1,1001}`, which RE2 refuses, and refuses
//! `\C`, `\Q..\E` and `a{,5}`, which RE2 takes. A client whose configuration holds what RE2 refuses rejects the whole
//! validation context, so it has to be found here.
//!
//! Envoy reads the expression as Latin-1 (1.40) or UTF-8 (1.36), so only what both take passes: code points up to
//! U+00FF in escapes, and groups with ASCII names. How large the compiled expression may be is a setting of Envoy
//! (`re2.max_program_size.error_level`, 100 unless changed), and not judged here.

mod class;
mod groups;
#[cfg(test)]
mod tests;

/// Neither a repetition nor repetitions within each other may ask for more.
const LONGEST_REPETITION: u32 = 1000;
/// The largest code point that Envoy takes in an escape, see above.
const LARGEST_CHARACTER: u32 = 0xff;

/// Why a text is no RE2 expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Re2Error {
    /// `(` without `)`.
    #[error("a ( is not closed")]
    MissingParenthesis,
    /// `)` without `(`.
    #[error("a ) closes nothing; write \\) for the character")]
    UnexpectedParenthesis,
    /// `[` without `]`.
    #[error("a [ is not closed; write \\[ for the character")]
    MissingBracket,
    /// `*` and the like with nothing before them.
    #[error("{0:?} repeats nothing; write a \\ before it for the character")]
    NothingToRepeat(String),
    /// A repetition of a repetition: `a**`, `a++`, `a{2}{3}`.
    #[error("{0:?} repeats a repetition; RE2 knows no possessive ones, use (?:...)")]
    DoubleRepetition(String),
    /// `{2,1}`, `{1001}`, or `(a{100}){11}`.
    #[error("{0:?} repeats more than {LONGEST_REPETITION} times in all, or backwards")]
    RepetitionSize(String),
    /// Look-around, comments, conditions, recursion, flags of others.
    #[error("{0:?} is none of RE2's groups; those are (...), (?:...), (?P<name>...) and the flags i, m, s and U")]
    Group(String),
    /// A name with other characters than letters, digits and `_`.
    #[error("{0:?} is no name of a group; use letters, digits and _")]
    GroupName(String),
    /// A `\` at the end.
    #[error("it ends in a \\; write \\\\ for the character")]
    TrailingBackslash,
    /// An escape that RE2 has not: `\u`, `\Z`, a back-reference.
    #[error("{0:?} is none of RE2's escapes (characters up to \\xFF; no back-references)")]
    Escape(String),
    /// A range backwards, or the name of a class that RE2 has not.
    #[error("{0:?} is no range or class of characters that RE2 knows")]
    Class(String),
}

/// What is between two parentheses so far.
#[derive(Clone, Copy)]
struct Group {
    /// How often the last item repeats what is in it; `None` at the beginning and after `|`.
    last: Option<u32>,
    /// The largest of all items.
    largest: u32,
}

impl Group {
    const EMPTY: Self = Self { last: None, largest: 1 };

    fn push(&mut self, repeats: u32) {
        self.last = Some(repeats);
        self.largest = self.largest.max(repeats);
    }
}

/// Checks `text`.
///
/// # Errors
/// The first thing in it that RE2 refuses.
pub(super) fn check(text: &str) -> Result<(), Re2Error> {
    let mut reader = Reader { rest: text, group: Group::EMPTY, open: Vec::new(), repetition: None };
    while let Some(next) = reader.rest.chars().next() {
        reader.read(next)?;
    }
    if reader.open.is_empty() { Ok(()) } else { Err(Re2Error::MissingParenthesis) }
}

struct Reader<'t> {
    rest: &'t str,
    group: Group,
    /// Those around it.
    open: Vec<Group>,
    /// From the repetition that was just read, which nothing may repeat.
    repetition: Option<&'t str>,
}

impl Reader<'_> {
    /// Reads the item that begins with `next`.
    fn read(&mut self, next: char) -> Result<(), Re2Error> {
        let repeated = self.repetition.take();
        match next {
            '(' if self.rest.starts_with("(?") => match perl_group(&mut self.rest)? {
                Opened::Group => self.nest(),
                Opened::Flags => {}
            },
            '(' => {
                self.rest = after(self.rest, 1);
                self.nest();
            }
            ')' => {
                self.rest = after(self.rest, 1);
                let inner = self.group.largest;
                self.group = self.open.pop().ok_or(Re2Error::UnexpectedParenthesis)?;
                self.group.push(inner);
            }
            '|' => {
                self.rest = after(self.rest, 1);
                self.group.last = None;
            }
            '[' => {
                class::skip(&mut self.rest)?;
                self.group.push(1);
            }
            '\\' => {
                if outside_class(&mut self.rest)? {
                    self.group.push(1);
                }
            }
            '*' | '+' | '?' | '{' if self.repeat(repeated)? => {}
            _ => {
                self.rest = after(self.rest, next.len_utf8());
                self.group.push(1);
            }
        }
        Ok(())
    }

    /// Reads a repetition; `false` if there is none.
    fn repeat(&mut self, repeated: Option<&str>) -> Result<bool, Re2Error> {
        let at = self.rest;
        let Some(found) = Repetition::read(&mut self.rest) else { return Ok(false) };
        let left = self.rest.len();
        let words = |from: &str| from.get(..from.len() - left).unwrap_or_default().to_owned();
        if let Some(repeated) = repeated {
            return Err(Re2Error::DoubleRepetition(words(repeated)));
        }
        let last = self.group.last.ok_or_else(|| Re2Error::NothingToRepeat(words(at)))?;
        let repeats = found.of(last).ok_or_else(|| Re2Error::RepetitionSize(words(at)))?;
        self.group.push(repeats);
        self.repetition = Some(at);
        Ok(true)
    }

    fn nest(&mut self) {
        self.open.push(std::mem::replace(&mut self.group, Group::EMPTY));
    }
}

/// `*`, `+`, `?` or `{n,m}`, with the `?` that makes it lazy.
struct Repetition {
    least: u32,
    most: Option<u32>,
}

impl Repetition {
    /// `None` for a `{` that stands for itself.
    fn read(rest: &mut &str) -> Option<Self> {
        let (found, end) = match rest.chars().next()? {
            '{' => Self::counted(rest)?,
            '?' => (Self { least: 0, most: Some(1) }, 1),
            sign => (Self { least: u32::from(sign == '+'), most: None }, 1),
        };
        *rest = after(rest, end);
        *rest = rest.strip_prefix('?').unwrap_or(rest);
        Some(found)
    }

    /// `{n}`, `{n,}` or `{n,m}`, and how long it is. Anything else in braces is text, `{,5}` and `{01}` too.
    fn counted(text: &str) -> Option<(Self, usize)> {
        let inner = text.strip_prefix('{')?.split_once('}')?.0;
        let (least, most) = match inner.split_once(',') {
            None => (number(inner)?, Some(number(inner)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        Some((Self { least, most }, inner.len() + 2))
    }

    /// How often it repeats what is in something that repeats `inner` times; `None` if that is too often.
    fn of(&self, inner: u32) -> Option<u32> {
        let most = self.most.unwrap_or(self.least);
        if most < self.least || most > LONGEST_REPETITION {
            return None;
        }
        let all = inner.checked_mul(most.max(1))?;
        (most < 2 && self.least < 2 || all <= LONGEST_REPETITION).then_some(all)
    }
}

fn number(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    // RE2 takes longer ones for text.
    (plain && !leading_zero && digits.len() <= 9).then(|| digits.parse().ok()).flatten()
}

/// What a `(?` was.
enum Opened {
    Group,
    /// `(?i)`: no item of its own.
    Flags,
}

fn perl_group(rest: &mut &str) -> Result<Opened, Re2Error> {
    let inner = after(rest, 2);
    let unknown = || Re2Error::Group(shown(rest));
    let name = inner.strip_prefix("P<").or_else(|| inner.strip_prefix('<').filter(|it| !it.starts_with(['=', '!'])));
    if let Some(named) = name {
        let (name, behind) = named.split_once('>').ok_or_else(unknown)?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Re2Error::GroupName(name.chars().take(32).collect()));
        }
        *rest = behind;
        return Ok(Opened::Group);
    }
    let (mut negated, mut flags) = (false, 0);
    for (at, flag) in inner.char_indices() {
        match flag {
            'i' | 'm' | 's' | 'U' => flags += 1,
            '-' if !negated => (negated, flags) = (true, 0),
            ':' | ')' if !negated || flags > 0 => {
                *rest = after(inner, at + 1);
                return Ok(if flag == ':' { Opened::Group } else { Opened::Flags });
            }
            _ => break,
        }
    }
    Err(unknown())
}

/// An escape that is not in a class; whether there is something to repeat then.
fn outside_class(rest: &mut &str) -> Result<bool, Re2Error> {
    if let Some(quoted) = rest.strip_prefix("\\Q") {
        let (text, behind) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        *rest = behind;
        return Ok(!text.is_empty());
    }
    match rest.chars().nth(1) {
        Some('b' | 'B' | 'A' | 'z' | 'C') => *rest = after(rest, 2),
        _ if class::shorthand(rest)? => {}
        _ => {
            escaped(rest)?;
        }
    }
    Ok(true)
}

/// The character that an escape means.
fn escaped(rest: &mut &str) -> Result<u32, Re2Error> {
    let bad = || Re2Error::Escape(rest.chars().take(6).collect());
    let inner = after(rest, 1);
    let first = inner.chars().next().ok_or(Re2Error::TrailingBackslash)?;
    let octal = |text: &str, most| text.bytes().take(most).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
    let (code, length) = match first {
        // One digit but 0 is a back-reference elsewhere.
        '0'..='7' => match octal(inner, 3) {
            1 if first != '0' => return Err(bad()),
            digits => (u32::from_str_radix(inner.get(..digits).unwrap_or_default(), 8).ok(), digits),
        },
        'x' => match inner.strip_prefix("x{") {
            Some(braced) => {
                let digits = braced.split_once('}').map(|(digits, _)| digits).ok_or_else(bad)?;
                (hexadecimal(digits), digits.len() + 3)
            }
            None => (inner.get(1..3).and_then(hexadecimal), 3),
        },
        'a' => (Some(7), 1),
        't' => (Some(9), 1),
        'n' => (Some(10), 1),
        'v' => (Some(11), 1),
        'f' => (Some(12), 1),
        'r' => (Some(13), 1),
        _ if first == '_' || first.is_ascii() && !first.is_ascii_alphanumeric() => (Some(u32::from(first)), 1),
        _ => (None, 0),
    };
    let code = code.filter(|code| *code <= LARGEST_CHARACTER).ok_or_else(bad)?;
    *rest = after(inner, length);
    Ok(code)
}

fn hexadecimal(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match digits.trim_start_matches('0') {
        "" => Some(0),
        digits => u32::from_str_radix(digits, 16).ok(),
    }
}

/// What is behind so many bytes.
fn after(text: &str, bytes: usize) -> &str {
    text.get(bytes..).unwrap_or_default()
}

/// The beginning of something, for a message.
fn shown(text: &str) -> String {
    text.chars().take(4).collect()
}
