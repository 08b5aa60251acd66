//! Random bits from the kernel, for seeds, salts and ids. Never inside a machine: what is drawn here arrives there as a
//! seed, so that the simulator can choose it.

use std::io;

/// Fills `bytes` with random bits.
///
/// # Panics
/// When the kernel has none to give, which it does on no Linux that has booted.
pub fn fill(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the pointer and the length describe `rest`, which is valid for writing.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::Interrupted,
                    "getrandom fails only when a signal interrupts it: {error}"
                );
            }
        }
    }
}

/// 64 random bits.
#[must_use]
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// 128 random bits.
#[must_use]
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    u128::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random_u64(), random_u64());
        assert_ne!(random_u128(), random_u128());
        let mut long = [0; 1000];
        fill(&mut long);
        assert!(long.iter().any(|byte| *byte != 0));
    }
}
