//! A file of the simulated disk: what programs see of it, and what a power cut leaves.
//!
//! It takes little memory, so that a hundred thousand disks fit: what was never written takes none, and what is durable is
//! held once. What programs see is that and the changes since.

use std::ops::Range;

const SECTOR_BYTES: usize = 512;
/// Changes over which a program's view is put together for each read; with more it is kept.
const CHANGES_READ_MAX: usize = 32;

/// A file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    durable: Image,
    /// Since the last sync.
    changes: Vec<Change>,
    /// What programs see, if it is kept.
    seen: Option<Box<Image>>,
    /// A sync has failed: what programs see may never become durable.
    has_lost: bool,
    /// Open handles.
    pub(crate) handles: u32,
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
struct Image {
    /// Those from here to `length` are zero.
    bytes: Vec<u8>,
    length: usize,
    /// Sectors that were ever written, a bit each.
    written: Vec<u64>,
}

/// Something done to a file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Length(usize),
    Write { at: usize, bytes: Vec<u8> },
}

impl Inode {
    /// Makes it hold this, durably.
    pub(crate) fn replace(&mut self, bytes: &[u8]) {
        let mut durable = Image::default();
        durable.write(0, bytes);
        *self = Self { durable, handles: self.handles, ..Self::default() };
    }

    /// Returns its length, as programs see it.
    pub(crate) fn len(&self) -> usize {
        match &self.seen {
            Some(seen) => seen.length,
            None => self.changes.iter().fold(self.durable.length, |length, change| match change {
                Change::Length(length) => *length,
                Change::Write { at, bytes } => length.max(at + bytes.len()),
            }),
        }
    }

    /// Fills `into` from `at` on with what programs see; returns false if the file ends before.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> bool {
        if at.checked_add(into.len()).is_none_or(|end| end > self.len()) {
            return false;
        }
        self.seen.as_deref().unwrap_or(&self.durable).read(at, into);
        if self.seen.is_none() {
            for change in &self.changes {
                change.overlay(at, into);
            }
        }
        true
    }

    pub(crate) fn change(&mut self, change: Change) {
        if let Some(seen) = &mut self.seen {
            seen.apply(&change);
        }
        self.changes.push(change);
        if self.seen.is_none() && self.changes.len() > CHANGES_READ_MAX {
            self.seen = Some(self.put_together());
        }
    }

    fn put_together(&self) -> Box<Image> {
        let mut seen = self.durable.clone();
        self.changes.iter().for_each(|change| seen.apply(change));
        Box::new(seen)
    }

    pub(crate) fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            self.durable.apply(&change);
        }
        if !self.has_lost {
            self.seen = None;
        }
    }

    /// Chance decides what is on disk of the changes; a running program goes on seeing all of them, and no
    /// later sync looks at them again.
    pub(crate) fn fail_sync(&mut self, rng: &mut fastrand::Rng) {
        let seen = self.seen.take().unwrap_or_else(|| self.put_together());
        (self.seen, self.has_lost) = (Some(seen), true);
        self.durable = self.crash(rng).durable;
        self.changes.clear();
    }

    /// Returns what a power cut leaves.
    pub(crate) fn crash(&self, rng: &mut fastrand::Rng) -> Self {
        let mut image = self.durable.clone();
        // Some cuts lose everything that was not synced, some nothing, most are in between.
        let kept_of_8 = rng.u32(0..=8);
        for change in &self.changes {
            match change {
                Change::Length(length) if rng.u32(0..8) < kept_of_8 => image.resize(*length),
                Change::Length(_) => {}
                Change::Write { at, bytes } => {
                    for range in sectors(*at, bytes.len()) {
                        let new = &bytes[range.start - at..range.end - at];
                        if rng.u32(0..8) < kept_of_8 {
                            image.write(range.start, new);
                        } else if rng.u32(0..8) == 0 {
                            image.tear(range.start, new, rng);
                        }
                    }
                }
            }
        }
        Self { durable: image, ..Self::default() }
    }
}

impl Change {
    /// Does to a part of a file, from `at` on, what this does to the file.
    fn overlay(&self, at: usize, part: &mut [u8]) {
        match self {
            Self::Length(length) => {
                let from = length.saturating_sub(at).min(part.len());
                part[from..].fill(0);
            }
            Self::Write { at: from, bytes } => {
                let (start, end) = (at.max(*from), (at + part.len()).min(from + bytes.len()));
                if start < end {
                    part[start - at..end - at].copy_from_slice(&bytes[start - from..end - from]);
                }
            }
        }
    }
}

impl Image {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Length(length) => self.resize(*length),
            Change::Write { at, bytes } => self.write(*at, bytes),
        }
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        let there = self.bytes.get(at..).unwrap_or_default();
        let (copied, zeros) = into.split_at_mut(there.len().min(into.len()));
        copied.copy_from_slice(&there[..copied.len()]);
        zeros.fill(0);
    }

    fn resize(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.length = length;
        let sectors = length.div_ceil(SECTOR_BYTES);
        self.written.truncate(sectors.div_ceil(64));
        if let Some(last) = self.written.get_mut(sectors / 64) {
            *last &= (1 << (sectors % 64)) - 1;
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.length = self.length.max(end);
        if self.bytes.len() < end {
            if self.bytes.capacity() < end {
                // A little, and the more the larger the file is.
                let more = (end - self.bytes.len()).max(self.bytes.len() / 8);
                self.bytes.reserve_exact(more.next_multiple_of(64));
            }
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        for sector in sectors(at, bytes.len()).map(|range| range.start / SECTOR_BYTES) {
            if self.written.len() <= sector / 64 {
                self.written.resize(sector / 64 + 1, 0);
            }
            self.written[sector / 64] |= 1 << (sector % 64);
        }
    }

    fn is_written(&self, sector: usize) -> bool {
        self.written.get(sector / 64).is_some_and(|bits| bits & (1 << (sector % 64)) != 0)
    }

    /// Leaves a part of what was written, or garbage in its place, if there was nothing before.
    fn tear(&mut self, at: usize, new: &[u8], rng: &mut fastrand::Rng) {
        if self.is_written(at / SECTOR_BYTES) {
            return;
        }
        if rng.bool() {
            self.write(at, &new[..rng.usize(0..=new.len())]);
        } else {
            let mut garbage = vec![0; new.len()];
            rng.fill(&mut garbage);
            self.write(at, &garbage);
        }
    }
}

/// Splits a range of a file at the borders of sectors.
fn sectors(at: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = at + length;
    let mut from = at;
    std::iter::from_fn(move || {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        let range = from..to;
        from = to;
        (!range.is_empty()).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same file, all of whose bytes are held.
    #[derive(Clone, Default)]
    struct Whole {
        seen: Vec<u8>,
    }

    impl Whole {
        fn change(&mut self, change: &Change) {
            match change {
                Change::Length(length) => self.seen.resize(*length, 0),
                Change::Write { at, bytes } => {
                    self.seen.resize(self.seen.len().max(at + bytes.len()), 0);
                    self.seen[*at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }

    fn seen(inode: &Inode) -> Vec<u8> {
        let mut bytes = vec![0xaa; inode.len()];
        assert!(inode.read(0, &mut bytes) && !inode.read(1, &mut bytes.clone()) | bytes.is_empty());
        bytes
    }

    #[test]
    fn programs_see_all_changes_and_a_power_cut_leaves_what_was_synced() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut inode, mut whole) = (Inode::default(), Whole::default());
            for _ in 0..rng.usize(0..120) {
                let change = match rng.u8(0..4) {
                    0 => Change::Length(rng.usize(0..6_000)),
                    _ => {
                        let bytes = (0..rng.usize(1..700)).map(|_| rng.u8(1..)).collect();
                        Change::Write { at: rng.usize(0..5_000), bytes }
                    }
                };
                whole.change(&change);
                inode.change(change);
                match rng.u8(0..20) {
                    0..5 => {
                        inode.sync();
                        if !inode.has_lost {
                            assert_eq!(seen(&inode.crash(&mut rng)), whole.seen, "seed {seed}");
                        }
                    }
                    5 => inode.fail_sync(&mut rng),
                    _ => {}
                }
                assert_eq!(seen(&inode), whole.seen, "seed {seed}");
                let at = rng.usize(0..=whole.seen.len());
                let mut part = vec![0xaa; rng.usize(0..=whole.seen.len() - at)];
                assert!(inode.read(at, &mut part));
                assert_eq!(part, whole.seen[at..at + part.len()], "seed {seed}");
            }
        }
    }

    #[test]
    fn what_is_only_reserved_takes_no_memory() {
        let mut inode = Inode::default();
        inode.change(Change::Length(1 << 30));
        inode.change(Change::Write { at: 0, bytes: vec![1; 100] });
        inode.sync();
        assert!(inode.durable.bytes.capacity() <= 512 && inode.len() == 1 << 30);
    }
}
