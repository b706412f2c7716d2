//! Start, readiness and drain.
