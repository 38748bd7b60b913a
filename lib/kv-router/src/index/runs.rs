//! Where runs live: chunks that never move, numbers that are used again.
//!
//! Numbers are below [`MAX_RUNS`]; 0 is never given.

use super::run::Run;
use super::table::MAX_RUNS;

/// Runs of a chunk: growing by one takes microseconds, where doubling one array would copy all.
const CHUNK: usize = 256;

/// All runs.
#[derive(Debug)]
pub(super) struct Runs {
    chunks: Vec<Vec<Run>>,
    free: Vec<u32>,
    /// Bytes that runs have allocated.
    heap_bytes: usize,
}

impl Runs {
    pub(super) fn new() -> Self {
        let mut runs = Self {
            chunks: Vec::new(),
            free: Vec::new(),
            heap_bytes: 0,
        };
        runs.add(Run::default());
        runs
    }

    /// The run with this number, which [`add`](Self::add) gave and nobody freed.
    pub(super) fn get(&self, number: u32) -> &Run {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    /// Changes a run and keeps the account of its memory.
    pub(super) fn edit<T>(&mut self, number: u32, change: impl FnOnce(&mut Run) -> T) -> T {
        let run = &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK];
        let before = run.heap_bytes();
        let answer = change(run);
        self.heap_bytes = self.heap_bytes + run.heap_bytes() - before;
        answer
    }

    /// How many more there can be.
    pub(super) fn room(&self) -> usize {
        (MAX_RUNS - self.end()) as usize + self.free.len()
    }

    /// Adds a run, for which there is [`room`](Self::room), and answers its number.
    pub(super) fn add(&mut self, run: Run) -> u32 {
        self.heap_bytes += run.heap_bytes();
        if let Some(number) = self.free.pop() {
            self.chunks[number as usize / CHUNK][number as usize % CHUNK] = run;
            return number;
        }
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let number = self.end();
        if let Some(last) = self.chunks.last_mut() {
            last.push(run);
        }
        number
    }

    /// Takes a run out and frees its number.
    pub(super) fn take(&mut self, number: u32) -> Run {
        let run = self.edit(number, std::mem::take);
        self.free.push(number);
        run
    }

    /// The number past the last run; numbers below it may be free: their runs are empty.
    pub(super) fn end(&self) -> u32 {
        let last = self.chunks.last().map_or(0, Vec::len);
        (self.chunks.len().saturating_sub(1) * CHUNK + last) as u32
    }

    /// How many runs there are.
    pub(super) fn len(&self) -> usize {
        // Number 0 is no run.
        self.end() as usize - 1 - self.free.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * (CHUNK * size_of::<Run>() + size_of::<Vec<Run>>())
            + self.free.capacity() * size_of::<u32>()
            + self.heap_bytes
    }
}
