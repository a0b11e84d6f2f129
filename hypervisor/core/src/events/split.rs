//! Events about the kernel/user split.

use core::fmt;

use super::json::Object;

/// What of the kernel half was within a vCPU's reach at an exit from user code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitSample {
    /// The vCPU's number.
    pub vcpu: u32,
    /// Whether it was in the `user` view.
    pub in_user: bool,
    /// Frames.
    pub frames: u64,
    /// Of these, those that the split does not name.
    pub unnamed: u64,
    /// Pages, as often as an address leads to each.
    pub pages: u64,
    /// Tables that lead there.
    pub tables: u64,
    /// There was more than was looked at.
    pub is_cut: bool,
}

impl SplitSample {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        let numbers = [
            ("vcpu", self.vcpu.into()),
            ("in_user", self.in_user.into()),
            ("frames", self.frames),
            ("unnamed", self.unnamed),
            ("pages", self.pages),
            ("tables", self.tables),
            ("cut", self.is_cut.into()),
        ];
        numbers
            .into_iter()
            .try_for_each(|(key, value)| object.number(key, value))
    }
}
