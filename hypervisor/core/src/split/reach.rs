//! What of the kernel half is within reach: every address of it, followed through the guest's tables and a view as the processor follows them.
//!
//! This is how the split is checked from outside of it: [`reach`] knows tables and views, and nothing of what [`Split`](super::Split) means to have
//! in them. What user mode may not read by the guest's own tables counts all the same: it is what the processor could get at.

use alloc::vec::Vec;

use crate::addr::{FRAME_SIZE, Frame, Gpa};
use crate::ept::EptPerms;
use crate::table::{ENTRIES, TableMemory};
use crate::views::{ViewId, Views};

/// A page table of the guest's.
pub type Table = [u64; ENTRIES];

/// The most frames that are told apart.
pub const MOST_FRAMES: usize = 4096;

/// The most tables that are followed.
pub const MOST_TABLES: u64 = 1 << 14;
/// The most pages that are looked at.
pub const MOST_PAGES: u64 = 1 << 20;

const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What is within reach.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reach {
    /// The frames, in order, but for those beyond [`MOST_FRAMES`].
    pub frames: Vec<Frame>,
    /// Pages of 4 KiB, as often as an address leads to each.
    pub pages: u64,
    /// Tables that were followed, the top-level one among them.
    pub tables: u64,
    /// There was more than [`MOST_TABLES`] and [`MOST_PAGES`] allow: tables may lead to one another in circles.
    pub is_cut: bool,
}

/// Follows every address of the upper half from the top-level table at `root`. `read` gets what is in a frame of the VM's, or says no.
pub fn reach(
    views: &Views,
    memory: &impl TableMemory,
    view: ViewId,
    root: Gpa,
    read: &mut dyn FnMut(Frame, &mut Table) -> bool,
) -> Reach {
    let mut walk = Walk {
        views,
        memory,
        view,
        read,
        reach: Reach::default(),
    };
    walk.table(root, 4, ENTRIES / 2);
    walk.reach
}

struct Walk<'a, M> {
    views: &'a Views,
    memory: &'a M,
    view: ViewId,
    read: &'a mut dyn FnMut(Frame, &mut Table) -> bool,
    reach: Reach,
}

impl<M: TableMemory> Walk<'_, M> {
    /// Follows the entries from `first` on of a table of `level`.
    fn table(&mut self, gpa: Gpa, level: u32, first: usize) {
        if self.reach.tables >= MOST_TABLES || self.reach.pages >= MOST_PAGES {
            self.reach.is_cut = true;
            return;
        }
        let mut table = alloc::boxed::Box::new([0; ENTRIES]);
        let found = frames(self.views, self.memory, self.view, gpa, 1).next();
        let Some(frame) = found else { return };
        if !(self.read)(frame, &mut table) {
            return;
        }
        self.reach.tables += 1;
        for entry in table
            .iter()
            .skip(first)
            .filter(|entry| **entry & PRESENT != 0)
        {
            let to = Gpa(entry & ADDRESS);
            if level == 1 || (level < 4 && entry & LARGE != 0) {
                let pages = 1_u64 << (9 * (level - 1));
                self.pages(Gpa(to.0 & !(pages * FRAME_SIZE - 1)), pages);
            } else {
                self.table(to, level - 1, 0);
            }
        }
    }

    /// Notes `count` pages from `gpa` on, those that the view has.
    fn pages(&mut self, gpa: Gpa, count: u64) {
        if self.reach.pages >= MOST_PAGES {
            self.reach.is_cut = true;
            return;
        }
        for frame in frames(self.views, self.memory, self.view, gpa, count) {
            self.reach.pages += 1;
            let known = &mut self.reach.frames;
            if let Err(place) = known.binary_search(&frame)
                && known.len() < MOST_FRAMES
            {
                known.insert(place, frame);
            }
        }
    }
}

/// The frames that a view has to read for `count` pages from `gpa` on.
fn frames<M: TableMemory>(
    views: &Views,
    memory: &M,
    view: ViewId,
    gpa: Gpa,
    count: u64,
) -> impl Iterator<Item = Frame> {
    (0..count).filter_map(move |page| {
        let gpa = Gpa(gpa.0 + page * FRAME_SIZE);
        let leaf = views.translate(memory, view, gpa)?;
        let into = (gpa.0 - leaf.input.0) / FRAME_SIZE;
        let readable = leaf.attr.perms.contains(EptPerms::READ);
        readable.then_some(Frame(leaf.frame.0 + into))
    })
}
