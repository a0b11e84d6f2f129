//! Which file the firmware started, as it says it: by the nodes of a device path, or by what a DHCP server answered.
//!
//! Both were written by others, and are printed when the file is not there: what a terminal would obey is no name.

use alloc::string::{String, ToString};

/// Fields of a DHCPv4 message ("Dynamic Host Configuration Protocol", RFC 2131, section 2).
const NEXT_SERVER: usize = 20;
const SERVER_NAME: usize = 44;
const FILE: usize = 108;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;
/// What options begin with.
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// Options ("DHCP Options and BOOTP Vendor Extensions", RFC 2132).
const PAD: u8 = 0;
const OVERLOAD: u8 = 52;
const BOOT_FILE: u8 = 67;
const END: u8 = 255;
/// Bits of [`OVERLOAD`]: fields that hold options, too.
const IN_FILE: u8 = 1;
const IN_SERVER_NAME: u8 = 2;

/// The file on its volume, from the data of a device path's file path nodes: little-endian UCS-2, up to a zero. Its parts are
/// separated by `/`, whichever separator the nodes have: between two nodes there need not be one, and loaders write `/` as well as `\`
/// ("UEFI Specification", "File Path Media Device Path").
#[inline(never)]
pub fn of_nodes(nodes: &mut dyn Iterator<Item = &[u8]>) -> Option<String> {
    let mut path = String::new();
    for node in nodes {
        let mut begins = true;
        for unit in node.as_chunks().0 {
            match char::from_u32(u16::from_le_bytes(*unit).into())? {
                '\0' => break,
                '/' | '\\' => begins = true,
                letter if letter.is_control() => return None,
                letter => {
                    if begins && !path.is_empty() {
                        path.push('/');
                    }
                    begins = false;
                    path.push(letter);
                }
            }
        }
    }
    (!path.is_empty()).then_some(path)
}

/// The file on the server, as the DHCPv4 message `packet` names it: by option 67, else by the message's own field.
#[inline(never)]
#[must_use]
pub fn of_answer(packet: &[u8]) -> Option<String> {
    let file = packet.get(FILE..COOKIE)?;
    let options = options(packet);
    let overloaded = match find(options, OVERLOAD) {
        Some([fields]) => *fields,
        _ => 0,
    };
    let among = |field: u8, bytes| find(bytes, BOOT_FILE).filter(|_| overloaded & field != 0);
    let name = find(options, BOOT_FILE)
        .or_else(|| among(IN_FILE, file))
        .or_else(|| among(IN_SERVER_NAME, packet.get(SERVER_NAME..FILE)?))
        .or_else(|| (overloaded & IN_FILE == 0).then_some(file))?;
    // Servers end the option with a zero, or do not.
    let name = name.split(|byte| *byte == 0).next()?;
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let good = !name.is_empty() && name.iter().all(printable);
    str::from_utf8(name)
        .ok()
        .filter(|_| good)
        .map(str::to_string)
}

/// The server that the file is to be had from, as the DHCPv4 message `packet` names it.
#[inline(never)]
#[must_use]
pub fn server_of_answer(packet: &[u8]) -> Option<[u8; 4]> {
    let address = packet.get(NEXT_SERVER..)?.first_chunk()?;
    (*address != [0; 4]).then_some(*address)
}

/// A message's options; none where it is BOOTP's.
fn options(packet: &[u8]) -> &[u8] {
    match packet.get(COOKIE..OPTIONS) {
        Some(cookie) if cookie == MAGIC => packet.get(OPTIONS..).unwrap_or_default(),
        _ => &[],
    }
}

/// The first option `wanted` of `options`.
fn find(options: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = options;
    loop {
        rest = match rest {
            [PAD, rest @ ..] => rest,
            [END, ..] | [] | [_] => return None,
            [code, length, rest @ ..] => {
                let (data, rest) = rest.split_at_checked((*length).into())?;
                if *code == wanted {
                    return Some(data);
                }
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn node(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().chain([0]);
        units.flat_map(u16::to_le_bytes).collect()
    }

    fn joined(texts: &[&str]) -> Option<String> {
        let nodes: Vec<_> = texts.iter().map(|text| node(text)).collect();
        of_nodes(&mut nodes.iter().map(Vec::as_slice))
    }

    #[test]
    fn one_node_is_the_path() {
        let expected = Some("EFI/BOOT/BOOTX64.EFI".to_string());
        assert_eq!(joined(&[r"\EFI\BOOT\BOOTX64.EFI"]), expected);
        assert_eq!(joined(&["/EFI/BOOT/BOOTX64.EFI"]), expected);
        assert_eq!(joined(&["bulkhead.efi"]), Some("bulkhead.efi".to_string()));
    }

    #[test]
    fn nodes_are_separated_once_whether_or_not_they_say_so() {
        let expected = Some("EFI/BOOT/BOOTX64.EFI".to_string());
        for nodes in [
            [r"\EFI\BOOT", "BOOTX64.EFI"],
            [r"\EFI\BOOT\", "BOOTX64.EFI"],
            ["/EFI/BOOT", r"\BOOTX64.EFI"],
            [r"\\EFI\/BOOT\", "/BOOTX64.EFI"],
        ] {
            assert_eq!(joined(&nodes), expected, "{nodes:?}");
        }
        // How GRUB names a file of the volume's root.
        assert_eq!(joined(&["", "bulkhead.efi"]), joined(&["bulkhead.efi"]));
    }

    #[test]
    fn what_is_no_name_is_none() {
        assert_eq!(joined(&[]), None);
        assert_eq!(joined(&[""]), None);
        assert_eq!(joined(&[r"\", "/"]), None);
        assert_eq!(joined(&["\u{1b}[2J"]), None);
        let alone = 0xd800_u16.to_le_bytes();
        assert_eq!(of_nodes(&mut [&alone[..]].into_iter()), None);
    }

    /// A message with this file field and these options.
    fn answer(file: &[u8], options: &[u8]) -> Vec<u8> {
        let mut packet = std::vec![0; OPTIONS];
        packet[NEXT_SERVER..NEXT_SERVER + 4].copy_from_slice(&[10, 0, 2, 2]);
        packet[FILE..FILE + file.len()].copy_from_slice(file);
        packet[COOKIE..].copy_from_slice(&MAGIC);
        packet.extend(options);
        packet
    }

    fn name(file: &[u8], options: &[u8]) -> Option<String> {
        of_answer(&answer(file, options))
    }

    #[test]
    fn the_field_names_the_file_where_no_option_does() {
        let expected = Some("pxe/bulkhead.efi".to_string());
        assert_eq!(name(b"pxe/bulkhead.efi", &[]), expected);
        assert_eq!(name(b"pxe/bulkhead.efi", &[PAD, 53, 1, 5, END]), expected);
        // BOOTP has no options; what stands there is not read.
        let mut packet = answer(b"pxe/bulkhead.efi", b"\x43\x03abc\xff");
        packet[COOKIE] = 0;
        assert_eq!(of_answer(&packet), expected);
    }

    #[test]
    fn option_67_goes_before_the_field() {
        let expected = Some(r"boot\x64\bulkhead.efi".to_string());
        let mut options = Vec::from([53, 1, 5, PAD, BOOT_FILE, 22]);
        options.extend(b"boot\\x64\\bulkhead.efi\0\xff");
        assert_eq!(name(b"other.efi", &options), expected);
        options[5] = 21;
        options.remove(27);
        assert_eq!(name(b"other.efi", &options), expected);
    }

    #[test]
    fn a_field_that_holds_options_is_no_name() {
        let overloaded = |fields| [OVERLOAD, 1, fields, END];
        assert_eq!(
            name(b"\x43\x05a.efi\xff", &overloaded(IN_FILE)),
            Some("a.efi".to_string())
        );
        assert_eq!(name(b"a.efi", &overloaded(IN_FILE)), None);
        assert_eq!(
            name(b"a.efi", &overloaded(IN_SERVER_NAME)),
            Some("a.efi".to_string())
        );
        let mut packet = answer(b"", &overloaded(IN_SERVER_NAME));
        packet[SERVER_NAME..SERVER_NAME + 8].copy_from_slice(b"\x43\x05a.efi\xff");
        assert_eq!(of_answer(&packet), Some("a.efi".to_string()));
    }

    #[test]
    fn names_that_a_terminal_would_obey_are_none() {
        assert_eq!(name(b"a\x1b[2J.efi", &[]), None);
        assert_eq!(name("bülkhead.efi".as_bytes(), &[]), None);
        assert_eq!(name(b"", &[]), None);
    }

    #[test]
    fn the_server_is_the_next_one_unless_there_is_none() {
        let mut packet = answer(b"", &[]);
        assert_eq!(server_of_answer(&packet), Some([10, 0, 2, 2]));
        packet[NEXT_SERVER..NEXT_SERVER + 4].fill(0);
        assert_eq!(server_of_answer(&packet), None);
        assert_eq!(server_of_answer(&packet[..NEXT_SERVER + 3]), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(file in prop::collection::vec(any::<u8>(), 0..128), options in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(name) = name(&file, &options) {
                prop_assert!(!name.is_empty() && name.chars().all(|c| !c.is_control()));
            }
        }

        #[test]
        fn any_nodes_are_survived(nodes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4)) {
            if let Some(path) = of_nodes(&mut nodes.iter().map(Vec::as_slice)) {
                prop_assert!(!path.starts_with('/') && !path.ends_with('/'));
                prop_assert!(!path.contains("//") && !path.contains('\\'));
            }
        }
    }
}
