use super::*;

fn run(first: u64, count: u64) -> FrameRun {
    FrameRun::new(Frame(first), FrameCount(count))
}

/// 10 pages of RAM, a disk without overlay, one with 4 blocks and one with 3.
fn backing() -> Backing {
    Backing::new(FrameCount(10), [0, 4, 3].map(FrameCount))
}

fn full() -> Backing {
    let mut backing = backing();
    for part in [
        run(512, 8),
        run(100, 2),
        run(520, 3),
        run(200, 1),
        run(523, 3),
    ] {
        backing.add(part);
    }
    backing
}

#[test]
fn frames_are_asked_for_part_by_part_and_a_piece_at_a_time() {
    let mut backing = backing();
    assert_eq!(
        (backing.ram(), backing.wanted()),
        (FrameCount(10), FrameCount(17))
    );
    let mut asked = Vec::new();
    let mut first = 0;
    while let Some(count) = backing.next(FrameCount(6)) {
        asked.push(count.0);
        backing.add(run(first, count.0));
        // As the ledger may give them: not in a row.
        first += 2 * count.0;
    }
    assert_eq!(asked, [6, 4, 4, 3]);
    assert_eq!(backing.taken(), backing.wanted());
}

#[test]
fn what_the_ledger_gives_in_parts_is_asked_for_until_it_is_there() {
    let mut backing = backing();
    backing.add(run(512, 8));
    assert_eq!(backing.next(FrameCount(512)), Some(FrameCount(2)));
    backing.add(run(100, 1));
    assert_eq!(backing.next(FrameCount(512)), Some(FrameCount(1)));
}

#[test]
fn every_page_has_its_frame_and_pieces_cover_them_all() {
    let backing = full();
    let frames: Vec<_> = backing
        .runs()
        .flat_map(|run| run.first.0..run.end().0)
        .collect();
    for (page, frame) in (0..).zip(&frames) {
        assert_eq!(backing.piece(page, FrameCount(1)), Some(run(*frame, 1)));
    }
    for most in 1..20 {
        let mut page = 0;
        let mut seen = Vec::new();
        while let Some(piece) = backing.piece(page, FrameCount(most)) {
            assert!((1..=most).contains(&piece.count.0));
            seen.extend(piece.first.0..piece.end().0);
            page += piece.count.0;
        }
        assert_eq!(seen, frames);
    }
}

#[test]
fn pages_that_no_frame_was_taken_for_have_none() {
    let mut backing = full();
    for page in [17, 18, u64::MAX] {
        assert_eq!(backing.piece(page, FrameCount(1)), None);
    }
    backing.clear();
    assert_eq!(backing.piece(0, FrameCount(1)), None);
    assert_eq!(backing.taken(), FrameCount(0));
    assert_eq!(backing.next(FrameCount(512)), Some(FrameCount(10)));
}

#[test]
fn blocks_of_overlays_follow_the_ram_disk_by_disk() {
    let backing = full();
    assert_eq!(backing.overlay_page(0, 0), None, "it is only read");
    assert_eq!(backing.overlay_page(1, 0), Some(10));
    assert_eq!(backing.overlay_page(1, 3), Some(13));
    assert_eq!(backing.overlay_page(1, 4), None, "the next disk's");
    assert_eq!(backing.overlay_page(2, 2), Some(16));
    assert_eq!(backing.overlay_page(2, u32::MAX), None);
    assert_eq!(backing.overlay_page(3, 0), None);
    assert_eq!(backing.overlay_page(usize::MAX, 0), None);
}
