//! Frames on the link: `length u32 (little endian) | kind u8 | body`; length counts kind and body.
//!
//! Pure. Decoding never panics, whatever the bytes.

use ft_log::entry::{HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// What a caller may put around an entry: domain, index and the like.
const SLACK_BYTES: usize = 128;
/// No body is longer, in either direction.
pub const BODY_BYTES_MAX: usize = HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX + SLACK_BYTES;
/// Length and kind.
pub const HEAD_BYTES: usize = 5;
pub const FRAME_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES_MAX;

/// The peer sent a length that no frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes, where 1 to {} are allowed", 1 + BODY_BYTES_MAX)]
pub struct BadLength {
    pub length: u32,
}

/// The head of a frame of which `body_bytes` follow.
pub fn head(kind: u8, body_bytes: usize) -> [u8; HEAD_BYTES] {
    assert!(body_bytes <= BODY_BYTES_MAX, "a frame's body of {body_bytes} bytes: cut it into several");
    let mut h = [kind; HEAD_BYTES];
    h[..4].copy_from_slice(&(1 + body_bytes as u32).to_le_bytes());
    h
}

/// The first frame of `bytes`: kind and body; `None`: it is not complete. It takes `HEAD_BYTES + body.len()` bytes.
pub fn first(bytes: &[u8]) -> Result<Option<(u8, &[u8])>, BadLength> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length);
    if length == 0 || length as usize > 1 + BODY_BYTES_MAX {
        return Err(BadLength { length });
    }
    Ok(rest.get(..length as usize).and_then(|frame| frame.split_first()).map(|(kind, body)| (*kind, body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((_, body))) = first(&bytes) {
                prop_assert!(HEAD_BYTES + body.len() <= bytes.len());
            }
        }

        #[test]
        fn lengths_near_the_bounds(length in prop_oneof![0u32..4, 65_700u32..66_000, any::<u32>()], have in 0usize..200) {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.resize(4 + have, 7);
            let legal = (1..=1 + BODY_BYTES_MAX).contains(&(length as usize));
            match first(&bytes) {
                Err(e) => prop_assert!(!legal && e.length == length),
                Ok(Some((7, body))) => prop_assert!(legal && body.len() == length as usize - 1),
                Ok(Some(_)) => prop_assert!(false),
                Ok(None) => prop_assert!(legal && have < length as usize),
            }
        }

        #[test]
        fn a_stream_cut_anywhere_gives_the_frames_back(
            frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..50)), 0..20),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut stream = Vec::new();
            for (kind, body) in &frames {
                stream.extend(head(*kind, body.len()));
                stream.extend(body);
            }
            let end = cut.index(stream.len() + 1);
            let (mut at, mut seen) = (0, 0);
            while let Some((kind, body)) = first(&stream[at..end]).unwrap() {
                prop_assert_eq!((kind, body), (frames[seen].0, &frames[seen].1[..]));
                at += HEAD_BYTES + body.len();
                seen += 1;
            }
            if end == stream.len() {
                prop_assert_eq!((seen, at), (frames.len(), end));
            }
        }
    }

    #[test]
    #[should_panic(expected = "cut it into several")]
    fn a_body_too_long_is_the_callers_fault() {
        head(1, BODY_BYTES_MAX + 1);
    }
}
