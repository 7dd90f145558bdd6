//! Taking the mask off what a client sends (RFC 6455 §5.3).

/// Unmasks `bytes` in place, eight at a time.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_single_bytes_give_the_same() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        for length in 0..=40 {
            let plain: Vec<u8> = (0..length).collect();
            let mut masked: Vec<u8> = plain.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            unmask(&mut masked, mask);
            assert_eq!(masked, plain);
        }
    }
}
