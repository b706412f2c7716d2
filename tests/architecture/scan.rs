//! Reads Rust text just well enough to know which paths it names: comments, strings and test modules are skipped, `use`
//! trees are unfolded, `super` is resolved. Macro bodies are read like any other code.

/// A path that the text names, unfolded (`a::{b, c}` gives two) and absolute (`crate::…`) where it leads into the crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) path: Vec<String>,
}

/// `mod name;`: a module in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) line: usize,
    /// Inline modules around it, then its own name.
    pub(super) path: Vec<String>,
    /// Under `#[cfg(test)]`.
    pub(super) test_only: bool,
    /// Under a `#[path = …]` attribute.
    pub(super) relocated: bool,
}

/// What one file says outside its test modules.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) named: Vec<Named>,
    pub(super) declared: Vec<Declared>,
    /// Lines that are not in an inline test module.
    pub(super) lines: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

/// Scans `text`, which is the module `module` of the crate (empty for the root).
pub(super) fn scan(text: &str, module: &[String]) -> Scan {
    let tokens = tokens(&blank(text));
    let mut reader = Reader { tokens, at: 0, module: module.to_vec(), inline: Vec::new(), out: Scan::default() };
    reader.run();
    let skipped = reader.inline_test_lines();
    reader.out.lines = text.lines().count() - skipped;
    reader.out
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    module: Vec<String>,
    /// Open braces: the name of the inline module that each opens, if it opens one.
    inline: Vec<Option<String>>,
    out: Scan,
}

impl Reader {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn line(&self, at: usize) -> usize {
        self.tokens.get(at).map_or(0, |token| token.line)
    }

    fn run(&mut self) {
        let mut attributes = String::new();
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                "#" if self.text(self.at + 1) == "[" => {
                    let end = self.closing(self.at + 1, "[", "]");
                    let words = (self.at..=end).map(|at| self.text(at)).collect::<Vec<_>>();
                    attributes.push_str(&words.concat());
                    self.at = end + 1;
                }
                "mod" if is_word(self.text(self.at + 1)) => {
                    self.module_item(&attributes);
                    attributes.clear();
                }
                "pub" | "(" | ")" if !attributes.is_empty() => self.at += 1,
                text => {
                    // `pub(crate) mod`: the attribute belongs to what comes after the visibility.
                    if !(text == "crate" && self.text(self.at + 1) == ")") {
                        attributes.clear();
                    }
                    self.other();
                }
            }
        }
    }

    /// At `mod name`, of a file of its own or inline.
    fn module_item(&mut self, attributes: &str) {
        let (line, name) = (self.line(self.at), self.text(self.at + 1).to_owned());
        let test_only = attributes.contains("#[cfg(test)]");
        if self.text(self.at + 2) == ";" {
            let mut path = self.inline.iter().flatten().cloned().collect::<Vec<_>>();
            path.push(name);
            self.out.declared.push(Declared { line, path, test_only, relocated: attributes.contains("#[path") });
            self.at += 3;
        } else if test_only {
            self.at = self.closing(self.at + 2, "{", "}") + 1;
        } else {
            self.inline.push(Some(name));
            self.at += 3;
        }
    }

    /// At anything else: a brace, the beginning of a path, or a token of no interest.
    fn other(&mut self) {
        match self.text(self.at) {
            "{" => self.inline.push(None),
            "}" => {
                self.inline.pop();
            }
            text if is_word(text) && !matches!(self.previous(), "::" | ".") => {
                let mut found = Vec::new();
                self.at = self.tree(self.at, &[], &mut found);
                for named in found {
                    if let Some(path) = self.absolute(named.path) {
                        self.out.named.push(Named { line: named.line, path });
                    }
                }
                return;
            }
            _ => {}
        }
        self.at += 1;
    }

    fn previous(&self) -> &str {
        self.at.checked_sub(1).map_or("", |at| self.text(at))
    }

    /// Reads the path, or `use` tree, that begins at `at`; returns where it ends.
    fn tree(&self, mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
        let mut path = prefix.to_vec();
        loop {
            path.push(self.text(at).to_owned());
            if self.text(at + 1) != "::" {
                found.push(Named { line: self.line(at), path });
                // `as` gives it another name here, which leads nowhere else.
                return if self.text(at + 1) == "as" { at + 3 } else { at + 1 };
            }
            match self.text(at + 2) {
                "{" => {
                    let end = self.closing(at + 2, "{", "}");
                    at += 3;
                    while at < end {
                        at = if is_word(self.text(at)) || self.text(at) == "*" {
                            self.tree(at, &path, found)
                        } else {
                            at + 1
                        };
                    }
                    return end + 1;
                }
                text if is_word(text) || text == "*" => at += 2,
                // A turbofish: the path ends here, its arguments are read on their own.
                _ => {
                    found.push(Named { line: self.line(at), path });
                    return at + 2;
                }
            }
        }
    }

    /// Resolves `self` and `super`. `None` for a path of one word that stays where it is: a variable, a keyword.
    fn absolute(&self, path: Vec<String>) -> Option<Vec<String>> {
        if path.len() == 1 {
            return None;
        }
        if !matches!(path.first().map(String::as_str), Some("self" | "super")) {
            return Some(path);
        }
        let mut here: Vec<_> = self.module.iter().cloned().chain(self.inline.iter().flatten().cloned()).collect();
        let up = path.iter().take_while(|segment| *segment == "self" || *segment == "super");
        let steps = up.clone().filter(|segment| *segment == "super").count();
        let rest = path.iter().skip(up.count()).cloned();
        here.truncate(here.len().saturating_sub(steps));
        Some(std::iter::once("crate".to_owned()).chain(here).chain(rest).collect())
    }

    fn closing(&self, open: usize, opening: &str, closing: &str) -> usize {
        let mut depth = 0_usize;
        for at in open..self.tokens.len() {
            if self.text(at) == opening {
                depth += 1;
            } else if self.text(at) == closing {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
        }
        self.tokens.len()
    }

    /// How many lines the inline test modules take.
    fn inline_test_lines(&self) -> usize {
        let mut lines = 0;
        let mut at = 0;
        while at < self.tokens.len() {
            let start = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
            let here = start.iter().enumerate().all(|(offset, text)| self.text(at + offset) == *text);
            if here && self.text(at + start.len() + 1) == "{" {
                let end = self.closing(at + start.len() + 1, "{", "}");
                lines += self.line(end) - self.line(at) + 1;
                at = end;
            }
            at += 1;
        }
        lines
    }
}

fn is_word(text: &str) -> bool {
    text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if rest.starts_with("::") {
                2
            } else if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(length);
            tokens.push(Token { line: number + 1, text: token.to_owned() });
            rest = after.trim_start();
        }
    }
    tokens
}

/// The text with comments and the insides of literals as spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = out.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest),
            'r' if !after_word => raw(rest),
            'b' if !after_word && rest.starts_with("br") => match raw(&rest[1..]) {
                0 => 0,
                length => length + 1,
            },
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`; 0 for a raw identifier or a word.
fn raw(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// `'x'`, `'\n'`; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |at| at + 4),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}
