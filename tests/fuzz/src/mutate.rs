//! Damage: one change to an input, of the kinds that break decoders.

use std::ops::Range;

use crate::random::Random;

const BYTES_MAX: usize = 64 * 1024;

/// The values that lengths, counts and offsets go wrong at.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    39,
    40,
    63,
    64,
    127,
    255,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// Changes `input` once; may take pieces from `other`.
pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    match random.below(9) {
        0 => with_byte(input, random, |byte, random| *byte ^= 1 << random.below(8)),
        1 => with_byte(input, random, |byte, random| *byte = random.next() as u8),
        2 => with_byte(input, random, |byte, random| *byte = byte.wrapping_add([1, 255][random.below(2)])),
        3 => overwrite(input, random),
        4 => input.truncate(random.below(input.len() + 1)),
        5 => {
            let piece = range(input.len(), random);
            input.drain(piece);
        }
        6 => {
            let piece = input[range(input.len(), random)].to_vec();
            insert(input, &piece, random);
        }
        7 => insert(input, &other[range(other.len(), random)], random),
        _ => {
            let piece: Vec<u8> = (0..random.below(9)).map(|_| random.next() as u8).collect();
            insert(input, &piece, random);
        }
    }
    input.truncate(BYTES_MAX);
}

fn with_byte(input: &mut [u8], random: &mut Random, change: impl FnOnce(&mut u8, &mut Random)) {
    let at = random.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        change(byte, random);
    }
}

/// Writes an edge value, or one near what is there, over 1, 2, 4 or 8 bytes.
fn overwrite(input: &mut [u8], random: &mut Random) {
    let width = 1 << random.below(4);
    let at = random.below(input.len());
    if let Some(field) = input.get_mut(at..at + width) {
        let mut value = EDGES[random.below(EDGES.len())];
        if random.one_in(2) {
            let mut present = [0; 8];
            present[..width].copy_from_slice(field);
            value = u64::from_le_bytes(present).wrapping_add(value);
        }
        field.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

fn insert(input: &mut Vec<u8>, piece: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    input.splice(at..at, piece.iter().copied());
}

fn range(length: usize, random: &mut Random) -> Range<usize> {
    let start = random.below(length + 1);
    let bytes = random.below(length - start + 1).min(1 + random.below(64));
    start..start + bytes
}
