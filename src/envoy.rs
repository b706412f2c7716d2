//! Envoy's side of the wire: the bootstrap that points it here.
