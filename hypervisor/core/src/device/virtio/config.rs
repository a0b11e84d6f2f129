//! Reading a device configuration that is an array of bytes.

/// Copies what `config` has from byte `offset` on; bytes of `into` beyond its end are left as they are.
pub(super) fn read(config: &[u8], offset: u32, into: &mut [u8]) {
    let from = config.get(offset as usize..).unwrap_or_default();
    for (to, from) in into.iter_mut().zip(from) {
        *to = *from;
    }
}
