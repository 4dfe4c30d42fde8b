//! Tests of the frame format through its public face.

mod common;
mod frames;
mod scan;
