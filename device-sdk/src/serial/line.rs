//! Lines of text with the checksum of NMEA 0183, cut out of a stream of bytes.

/// Bytes of the longest line that is looked at; NMEA 0183 allows 82, receivers send more.
const LINE_BYTES_MAX: usize = 160;

/// What a line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Everything from `$` or `!` to the checksum, which is right.
    Good(&'a str),
    /// It begins like a sentence, and its checksum is wrong or missing.
    Broken,
    /// Something else, as what a wrong baud rate makes of a sentence.
    Noise,
}

/// Cuts a stream into lines. Keeps one line at most.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// The line is too long; what comes is thrown away until its end.
    is_too_long: bool,
}

impl Lines {
    /// Takes bytes; calls `each` for every line that ends in them.
    pub(super) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        for &byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    if self.is_too_long {
                        each(Line::Noise);
                    } else if !self.line.is_empty() {
                        each(judge(&self.line));
                    }
                    self.line.clear();
                    self.is_too_long = false;
                }
                // A sentence begins although the last one has not ended: bytes were lost.
                b'$' | b'!' => {
                    if !self.line.is_empty() || self.is_too_long {
                        each(judge_cut(&self.line));
                    }
                    self.line.clear();
                    self.is_too_long = false;
                    self.line.push(byte);
                }
                _ if self.is_too_long => {}
                _ if self.line.len() == LINE_BYTES_MAX => {
                    self.line.clear();
                    self.is_too_long = true;
                }
                _ => self.line.push(byte),
            }
        }
    }
}

fn judge_cut(line: &[u8]) -> Line<'static> {
    if line.first().is_some_and(|first| b"$!".contains(first)) { Line::Broken } else { Line::Noise }
}

fn judge(line: &[u8]) -> Line<'_> {
    let text = str::from_utf8(line).ok().filter(|text| text.is_ascii());
    let checked = text.and_then(|text| {
        let (body, sum) = text.get(1..)?.rsplit_once('*')?;
        let is_right = sum.len() == 2 && u8::from_str_radix(sum, 16).is_ok_and(|sum| sum == checksum(body));
        is_right.then_some(text)
    });
    match (line.first(), checked) {
        (Some(b'$' | b'!'), Some(text)) => Line::Good(text),
        _ => judge_cut(line),
    }
}

/// The exclusive or of all bytes between `$` and `*` (NMEA 0183).
fn checksum(body: &str) -> u8 {
    body.bytes().fold(0, |sum, byte| sum ^ byte)
}

/// Makes a line of what stands between `$` and `*`.
pub(super) fn sentence(body: &str) -> String {
    format!("${body}*{:02X}\r\n", checksum(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], piece: usize) -> Vec<String> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            lines.push(piece, |line| out.push(format!("{line:?}")));
        }
        out
    }

    #[test]
    fn lines_are_cut_and_judged_wherever_the_bytes_are_cut() {
        let good = "$GPZDA,160012.71,11,03,2004,-1,00*7D";
        let long = "x".repeat(1_000);
        let stream = format!(
            "12.71,11*7D\r\n{good}\r\n\r\n{good}\n$GPZDA,160012.72,11,03,2004,-1,00*7D\r\n$GPZDA,1600{good}\r\n\
             $GPZDA\r\n$GPZDA*\r\n$*00\r\n$\u{e9}*00\r\n{long}\r\n${long}\r\n{good}\r\n"
        );
        let good = format!("Good({good:?})");
        let expected = [
            "Noise",
            &good,
            &good,
            "Broken",
            "Broken",
            &good,
            "Broken",
            "Broken",
            "Good(\"$*00\")",
            "Broken",
            "Noise",
            "Noise",
            &good,
        ];
        for piece in [1, 2, 7, 100_000] {
            assert_eq!(lines(stream.as_bytes(), piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_made_is_good() {
        assert_eq!(sentence("GPZDA,160012.71,11,03,2004,-1,00"), "$GPZDA,160012.71,11,03,2004,-1,00*7D\r\n");
        assert_eq!(lines(sentence("").as_bytes(), 1), ["Good(\"$*00\")"]);
    }

    #[test]
    fn memory_stays_bounded_whatever_comes() {
        let mut lines = Lines::default();
        for _ in 0..1_000 {
            lines.push(&[0xA5; 1_000], |line| panic!("{line:?}"));
            assert!(lines.line.capacity() <= 2 * LINE_BYTES_MAX);
        }
    }
}
