//! Names, flavours and absence, as SPIRE has them and where we differ.
