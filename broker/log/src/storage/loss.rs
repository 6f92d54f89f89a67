//! What a disk in memory keeps of unsynced writes when the power fails: some sectors, some writes, or those up to a moment.

/// How a disk that loses power treats the writes of one file that it had not made durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// Of all of them so many of 256 sectors are kept.
    Sectors(u64),
    /// Each is kept or lost as a whole: they had been put into another order.
    Writes,
    /// So many are kept, one is torn, and those after it are lost: they went in order.
    From(usize),
}

impl Loss {
    /// Whole writes are often lost or kept together; a disk that always tore them would hide bugs.
    pub(super) fn draw(mut random: impl FnMut() -> u64, writes: usize) -> Self {
        match random() % 9 {
            0 => Self::Sectors(0),
            1 => Self::Sectors(16),
            2 => Self::Sectors(128),
            3 => Self::Sectors(240),
            4 => Self::Sectors(256),
            5 | 6 => Self::Writes,
            _ => Self::From((random() % (writes as u64 + 1)) as usize),
        }
    }

    /// How many of 256 sectors are kept of one write.
    pub(super) fn chance(self, mut random: impl FnMut() -> u64, nth: usize) -> u64 {
        match self {
            Self::Sectors(chance) => chance,
            Self::Writes => 256 * (random() % 2),
            Self::From(first) if nth < first => 256,
            Self::From(first) if nth > first => 0,
            Self::From(_) => 64 * (random() % 5),
        }
    }
}
