//! Fuzzer bytes as a source of choices.

/// Gives choices until its bytes run out, and 0 from then on.
pub struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    /// Makes a source of the input.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Says whether all is used up.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes a byte.
    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((&byte, rest)) => {
                self.rest = rest;
                byte
            }
            None => 0,
        }
    }

    /// Takes a number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let number = if end <= 256 {
            usize::from(self.byte())
        } else {
            usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
        };
        number % end.max(1)
    }

    /// Takes one of these.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Says yes once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        // 0 is what an input that ended gives: it asks for nothing special.
        self.below(times) == times - 1
    }

    /// Takes the next bytes, at most `most`, as many as the next byte says.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = self.below(most + 1).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    /// Takes all that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}
