//! Paths, and who is behind which unit where several could have a function.

use super::*;

fn hops(path: &[(u8, u8)]) -> Vec<Hop> {
    path.iter()
        .map(|(device, function)| Hop::new(*device, *function).unwrap())
        .collect()
}

/// 00:01.0 leads to buses 1 to 4, 01:02.0 to 3 and 4, 00:05.0 was given none.
fn tree(at: SourceId) -> Option<Buses> {
    let (secondary, subordinate) = match (at.bus(), at.device(), at.function()) {
        (0, 1, 0) => (1, 4),
        (1, 2, 0) => (3, 4),
        (0, 5, 0) => (0, 0),
        _ => return None,
    };
    Some(Buses {
        secondary,
        subordinate,
    })
}

fn in_segment_0(segment: u16, at: SourceId) -> Option<Buses> {
    tree(at).filter(|_| segment == 0)
}

#[test]
fn a_path_goes_down_through_the_bridges_of_now() {
    let path = hops(&[(1, 0), (2, 0), (6, 5)]);
    assert_eq!(resolve(&path, 0, &tree), Ok(id(3, 6, 5)));
    assert_eq!(resolve(&path[..2], 0, &tree), Ok(id(1, 2, 0)));
    assert_eq!(resolve(&path[2..], 0xff, &tree), Ok(id(0xff, 6, 5)));
}

#[test]
fn a_path_ends_where_a_bridge_is_missing_or_was_given_no_buses() {
    let missing = hops(&[(1, 0), (3, 0), (0, 0)]);
    let unset = hops(&[(5, 0), (0, 0)]);
    let error = PathError::NoBridge(id(1, 3, 0));
    assert_eq!(resolve(&missing, 0, &tree), Err(error));
    let error = PathError::NoBridge(id(0, 5, 0));
    assert_eq!(resolve(&unset, 0, &tree), Err(error));
    assert_eq!(resolve(&[], 0, &tree), Err(PathError::Empty));
}

#[test]
fn hops_refuse_what_no_bus_has() {
    assert_eq!(Hop::new(32, 0), None);
    assert_eq!(Hop::new(0, 8), None);
    assert_eq!(Hop::new(31, 7).unwrap().on(1), id(1, 31, 7));
}

#[test]
fn a_name_beats_a_bridge_and_a_nearer_bridge_a_farther_one() {
    let dmar = Builder::new(38, 0)
        .drhd(0, 0, 0, 0x1000_0000, &[bridge(0, 1, 0)])
        .drhd(0, 0, 0, 0x2000_0000, &[scope(2, 0, 0, &[(1, 0), (2, 0)])])
        .drhd(
            0,
            0,
            0,
            0x3000_0000,
            &[scope(1, 0, 0, &[(1, 0), (2, 0), (6, 5)])],
        )
        .drhd(1, 0, 0, 0x4000_0000, &[])
        .parse()
        .unwrap();
    let unit = |source| registers(dmar.unit_of(0, source, &in_segment_0));
    assert_eq!(unit(id(3, 6, 5)), Some(0x3000_0000));
    assert_eq!(unit(id(3, 6, 4)), Some(0x2000_0000));
    assert_eq!(unit(id(4, 0, 0)), Some(0x2000_0000));
    assert_eq!(unit(id(1, 2, 0)), Some(0x2000_0000));
    assert_eq!(unit(id(2, 0, 0)), Some(0x1000_0000));
    assert_eq!(unit(id(0, 1, 0)), Some(0x1000_0000));
    assert_eq!(unit(id(5, 0, 0)), Some(0x4000_0000));
}

#[test]
fn a_bridge_without_buses_takes_no_neighbour_along() {
    let dmar = Builder::new(38, 0)
        .drhd(0, 0, 0, 0x1000_0000, &[bridge(0, 5, 0)])
        .drhd(1, 0, 0, 0x2000_0000, &[])
        .parse()
        .unwrap();
    let unit = |source| registers(dmar.unit_of(0, source, &in_segment_0));
    assert_eq!(unit(id(0, 5, 0)), Some(0x1000_0000));
    assert_eq!(unit(id(0, 6, 0)), Some(0x2000_0000));
}

#[test]
fn an_endpoint_takes_nothing_along_that_is_below_it() {
    let dmar = Builder::new(38, 0)
        .drhd(0, 0, 0, 0x1000_0000, &[endpoint(0, 1, 0)])
        .drhd(1, 0, 0, 0x2000_0000, &[])
        .parse()
        .unwrap();
    let unit = registers(dmar.unit_of(0, id(2, 0, 0), &in_segment_0));
    assert_eq!(unit, Some(0x2000_0000));
}

#[test]
fn an_interrupt_controllers_source_id_claims_no_function() {
    let dmar = Builder::new(38, 0)
        .drhd(0, 0, 0, 0x1000_0000, &[scope(3, 0, 0, &[(0x1f, 0)])])
        .drhd(1, 0, 0, 0x2000_0000, &[])
        .parse()
        .unwrap();
    let unit = registers(dmar.unit_of(0, id(0, 0x1f, 0), &flat));
    assert_eq!(unit, Some(0x2000_0000));
}

#[test]
fn a_function_that_no_unit_has_is_nobodys() {
    let dmar = Builder::new(38, 0)
        .drhd(0, 0, 0, 0x1000_0000, &[endpoint(0, 2, 0)])
        .parse()
        .unwrap();
    assert_eq!(dmar.unit_of(0, id(0, 3, 0), &flat), None);
}

#[test]
fn bridges_are_asked_for_in_the_units_segment() {
    let deep = scope(1, 0, 0, &[(1, 0), (6, 5)]);
    let dmar = Builder::new(38, 0)
        .drhd(0, 0, 0, 0x1000_0000, std::slice::from_ref(&deep))
        .drhd(0, 0, 1, 0x2000_0000, &[deep])
        .parse()
        .unwrap();
    let unit = |segment| registers(dmar.unit_of(segment, id(1, 6, 5), &in_segment_0));
    assert_eq!(unit(0), Some(0x1000_0000));
    assert_eq!(unit(1), None);
}
