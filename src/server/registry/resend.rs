//! What an operator wants sent again.

use std::sync::atomic::Ordering;

use super::Streams;
use crate::xds::ResourceName;

/// What an operator wants sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) enum Resend {
    Everything,
    Name(ResourceName),
}

impl Streams {
    /// Makes streams send again what they hold: those of clients whose `node.id` is `node`, or of all; `name` alone, or
    /// everything. Rejected content is sent again too. Says how many streams that concerns.
    pub fn resend(&self, node: Option<&str>, name: Option<&str>) -> usize {
        let mut concerned = 0;
        for cell in self.cells() {
            let mut view = cell.view();
            let of_node = node.is_none_or(|node| view.client.node == node);
            if !of_node || !view.rows.iter().any(|row| name.is_none_or(|name| row.name.as_str() == name)) {
                continue;
            }
            view.resend = Some(match (view.resend.take(), name) {
                (None, Some(name)) => Resend::Name(name.into()),
                (Some(Resend::Name(before)), Some(name)) if before.as_str() == name => Resend::Name(before),
                _ => Resend::Everything,
            });
            drop(view);
            cell.asked.store(true, Ordering::Release);
            cell.waker.wake();
            concerned += 1;
        }
        concerned
    }
}
