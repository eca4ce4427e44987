//! What the fuzz targets share.

pub mod peer;
pub mod strict;

use std::io::IoSlice;

use proxy::{http1::Pieces, limits::PIECES_COUNT_MAX};

/// The bytes that these pieces of a buffer make.
pub fn gather(pieces: &Pieces, buffer: &[u8]) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
    let count = pieces.slices(buffer, &mut slices);
    slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
}
