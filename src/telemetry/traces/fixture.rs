//! A backend that keeps what it is given.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{Attribute, Backend, Context, Open, Span, Traces, Value};

/// A finished trace.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) context: Context,
    pub(crate) root: Span,
    pub(crate) children: Vec<Span>,
}

/// Every trace that is over, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeper {
    kept: Arc<Mutex<Vec<Kept>>>,
    begun: Arc<AtomicU64>,
}

struct Root {
    keeper: Keeper,
    context: Context,
    root: Span,
    children: Mutex<Vec<Span>>,
}

impl Keeper {
    pub(crate) fn traces() -> (Self, Traces) {
        let keeper = Self::default();
        (keeper.clone(), Traces::to(keeper))
    }

    /// What is over since the last call.
    pub(crate) fn take(&self) -> Vec<Kept> {
        std::mem::take(&mut *self.kept.lock().unwrap())
    }
}

impl Kept {
    /// An attribute of the root.
    pub(crate) fn root(&self, name: &str) -> String {
        shown(&self.root, name)
    }
}

/// An attribute as a text.
pub(crate) fn shown(span: &Span, name: &str) -> String {
    match span.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value) {
        Some(Value::Word(text)) => (*text).to_owned(),
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Shared(text)) => text.to_string(),
        Some(Value::Texts(texts)) => texts.join(","),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Flag(flag)) => flag.to_string(),
        None => "-".to_owned(),
    }
}

impl Backend for Keeper {
    fn begin(&self, name: &'static str, start: SystemTime, links: Vec<Context>) -> Option<Box<dyn Open>> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Box::new(Root {
            keeper: self.clone(),
            context: Context { trace: number.into(), span: number },
            root: Span { links, ..Span::new(name, start, start) },
            children: Mutex::default(),
        }))
    }

    fn shutdown(&self, _: Duration) {}
}

impl Open for Root {
    fn context(&self) -> Context {
        self.context
    }

    fn child(&self, span: Span) {
        self.children.lock().unwrap().push(span);
    }

    fn end(self: Box<Self>, end: SystemTime, attributes: Vec<Attribute>, error: Option<String>) {
        let Self { keeper, context, root, children } = *self;
        let root = Span { end, attributes, error, ..root };
        keeper.kept.lock().unwrap().push(Kept { context, root, children: children.into_inner().unwrap() });
    }
}
