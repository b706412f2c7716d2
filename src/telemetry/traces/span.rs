//! Spans as they are handed to whoever sends them: plain values, without a library in sight.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A name and what it is. Never a key or a token.
pub type Attribute = (&'static str, Value);

/// What an attribute is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A constant.
    Word(&'static str),
    /// A text.
    Text(String),
    /// A text that many spans have.
    Shared(Arc<str>),
    /// Several texts.
    Texts(Vec<String>),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// Which span of which trace, as W3C Trace Context numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
}

/// A span that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Constant.
    pub name: &'static str,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known of it.
    pub attributes: Vec<Attribute>,
    /// What went wrong.
    pub error: Option<String>,
    /// Roots of other traces that it is a part of as well.
    pub links: Vec<Context>,
}

impl Span {
    /// A span of which nothing is known.
    #[must_use]
    pub fn new(name: &'static str, start: SystemTime, end: SystemTime) -> Self {
        Self { name, start, end, attributes: Vec::new(), error: None, links: Vec::new() }
    }
}

/// Takes spans. Nothing here may wait.
pub trait Backend: Debug + Send + Sync {
    /// Begins a trace; `None` when this one is not wanted.
    fn begin(&self, name: &'static str, start: SystemTime, links: Vec<Context>) -> Option<Box<dyn Open>>;

    /// Sends what is left. Blocks, for not much longer than `patience`.
    fn shutdown(&self, patience: Duration);
}

/// The root of a trace that is not over.
pub trait Open: Send + Sync {
    /// Which it is.
    fn context(&self) -> Context;

    /// A child of it is over.
    fn child(&self, span: Span);

    /// It is over itself.
    fn end(self: Box<Self>, end: SystemTime, attributes: Vec<Attribute>, error: Option<String>);
}
