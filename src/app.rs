//! Wires the parts together: a validated configuration in, bound sockets and a running server out.
