//! Texts that are longer than a frame's body: cut into parts, and put together again. A part begins with a byte that says whether more follow.

use super::frame::BODY_BYTES_MAX;

const MORE: u8 = 0;
const LAST: u8 = 1;

/// Bodies of the frames that carry a text, in order.
pub fn cut(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = text.chunks(BODY_BYTES_MAX - 1).map(|c| [&[MORE], c].concat()).collect();
    parts.last_mut().expect("no text is empty")[0] = LAST;
    parts
}

/// Parts as they come; no more than so many bytes of them are held.
#[derive(Debug)]
pub struct Parts {
    text: Vec<u8>,
    bytes_max: usize,
}

impl Parts {
    pub fn new(bytes_max: usize) -> Self {
        Self { text: Vec::new(), bytes_max }
    }

    /// One body; the text once it is complete. An error: why it can't be a part.
    pub fn push(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let (mark, part) = match body {
            [mark @ (MORE | LAST), part @ ..] => (*mark, part),
            _ => return Err("a frame of another kind".into()),
        };
        if self.text.len() + part.len() > self.bytes_max {
            return Err(format!("it is longer than {} bytes", self.bytes_max));
        }
        self.text.extend_from_slice(part);
        Ok((mark == LAST).then(|| std::mem::take(&mut self.text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_whole_and_none_that_is_too_long() {
        let text = vec![b'x'; 3 * BODY_BYTES_MAX];
        let cut = cut(&text);
        assert!(cut.len() == 4 && cut.iter().all(|p| p.len() <= BODY_BYTES_MAX));
        let mut parts = Parts::new(text.len());
        let came: Vec<_> = cut.iter().map(|p| parts.push(p).unwrap()).collect();
        assert_eq!(came, [None, None, None, Some(text.clone())]);
        let mut small = Parts::new(text.len() - 1);
        assert!(cut.iter().any(|p| small.push(p).is_err()));
        assert!(parts.push(&[]).is_err() && parts.push(&[2]).is_err());
    }
}
