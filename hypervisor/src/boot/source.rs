//! Reads files from where the image itself came from: its volume, or its TFTP server over PXE.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bulkhead_core::bootfile;
use core::fmt;
use core::net::IpAddr;
use core::ptr::NonNull;
use uefi::boot::{self, AllocateType, MemoryType, ScopedProtocol};
use uefi::proto::device_path::{DeviceSubType, DeviceType};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, RegularFile};
use uefi::proto::media::fs::SimpleFileSystem;
use uefi::proto::network::pxe::BaseCode;
use uefi::{CStr8, CString16, Status};

/// Bytes asked of the firmware in one read: some drivers fail on larger ones.
const READ_CHUNK: usize = 1 << 20;
/// A payload larger than this is refused before memory is asked for.
const MAX_FILE: u64 = 4 << 30;

/// Why a file cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceError {
    /// The image came from something that is neither a volume nor a PXE server.
    NoSource(Status),
    /// The file is not there.
    Missing(String),
    /// The firmware failed while reading.
    Firmware(String, Status),
    /// The file's size is absurd.
    TooLarge(String, u64),
    /// The firmware has no memory for it.
    NoMemory(String, u64),
    /// Fewer bytes came than the size said.
    Short(String, u64, u64),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSource(status) => write!(
                f,
                "the firmware names neither a volume nor a PXE server that Bulkhead was loaded from ({status}); \
                 start it from a FAT volume or over PXE"
            ),
            Self::Missing(path) => {
                write!(
                    f,
                    "{path} is not there; put it beside the manifest on the boot volume or TFTP server"
                )
            }
            Self::Firmware(path, status) => {
                write!(f, "the firmware failed to read {path}: {status}")
            }
            Self::TooLarge(path, bytes) => {
                write!(
                    f,
                    "{path} is {bytes} bytes; at most {MAX_FILE} are accepted"
                )
            }
            Self::NoMemory(path, bytes) => {
                write!(
                    f,
                    "the machine has no room for {path} ({bytes} bytes); add memory or use a smaller file"
                )
            }
            Self::Short(path, got, expected) => write!(
                f,
                "{path} ended after {got} of {expected} bytes; the medium or the transfer is damaged"
            ),
        }
    }
}

impl core::error::Error for SourceError {}

/// Where the image came from.
pub enum Source {
    /// A volume the firmware reads.
    Volume(Directory),
    /// A PXE server.
    Pxe {
        /// The firmware's PXE client.
        client: ScopedProtocol<BaseCode>,
        /// The TFTP server.
        server: IpAddr,
    },
}

impl Source {
    /// Finds where the running image came from.
    ///
    /// # Errors
    /// [`SourceError::NoSource`].
    pub fn of_image() -> Result<Self, SourceError> {
        let no_source = |error: uefi::Error| SourceError::NoSource(error.status());
        let image = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle())
            .map_err(no_source)?;
        let device = image
            .device()
            .ok_or(SourceError::NoSource(Status::NOT_FOUND))?;
        if let Ok(mut volume) = boot::open_protocol_exclusive::<SimpleFileSystem>(device) {
            return volume.open_volume().map(Self::Volume).map_err(no_source);
        }
        let client = open_shared_pxe(device).map_err(no_source)?;
        let server = server_address(&client).ok_or(SourceError::NoSource(Status::NO_MAPPING))?;
        Ok(Self::Pxe { client, server })
    }

    /// What to call the place in messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Volume(_) => "the boot volume".to_string(),
            Self::Pxe { server, .. } => format!("TFTP server {server}"),
        }
    }

    /// Has `look` look at the running image's file, as it is on the volume or server now, and forgets it.
    ///
    /// # Errors
    /// What is wrong with the file or the way to it.
    pub fn look_at_image<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> Result<R, SourceError> {
        let path = match self {
            Self::Volume(_) => own_path(),
            // A loader that came over the network before names what it started; the firmware's own PXE does not.
            Self::Pxe { client, .. } => {
                own_path().or_else(|| from_answers(client, bootfile::of_answer))
            }
        };
        let path = path.ok_or(SourceError::NoSource(Status::NOT_FOUND))?;
        let bytes = self.read(&path)?;
        let seen = look(bytes);
        give_back(bytes);
        Ok(seen)
    }

    /// Reads the whole of `path`, `/`-separated from the volume's or server's root, into pages that
    /// outlive boot services.
    ///
    /// # Errors
    /// What is wrong with the file or the way to it.
    pub fn read(&mut self, path: &str) -> Result<&'static [u8], SourceError> {
        match self {
            Self::Volume(root) => read_volume(root, path),
            Self::Pxe { client, server } => read_tftp(client, server, path),
        }
    }
}

fn read_volume(root: &mut Directory, path: &str) -> Result<&'static [u8], SourceError> {
    let failed = |error: uefi::Error| match error.status() {
        Status::NOT_FOUND => SourceError::Missing(path.to_string()),
        status => SourceError::Firmware(path.to_string(), status),
    };
    let name = CString16::try_from(path.replace('/', "\\").as_str())
        .map_err(|_| SourceError::Missing(path.to_string()))?;
    let handle = root
        .open(&name, FileMode::Read, FileAttribute::empty())
        .map_err(failed)?;
    let mut file: RegularFile = handle
        .into_regular_file()
        .ok_or_else(|| SourceError::Missing(path.to_string()))?;
    let size = file
        .get_boxed_info::<FileInfo>()
        .map_err(failed)?
        .file_size();
    let buffer = allocate(path, size)?;
    let mut filled = 0;
    while filled < buffer.len() {
        let end = buffer.len().min(filled + READ_CHUNK);
        let Some(chunk) = buffer.get_mut(filled..end) else {
            break;
        };
        let got = file
            .read(chunk)
            .map_err(|error| SourceError::Firmware(path.to_string(), error.status()))?;
        if got == 0 {
            return Err(SourceError::Short(path.to_string(), filled as u64, size));
        }
        filled += got;
    }
    Ok(buffer)
}

fn read_tftp(
    client: &mut BaseCode,
    server: &IpAddr,
    path: &str,
) -> Result<&'static [u8], SourceError> {
    let failed = |error: uefi::Error| match error.status() {
        Status::TFTP_ERROR | Status::NOT_FOUND => SourceError::Missing(path.to_string()),
        status => SourceError::Firmware(path.to_string(), status),
    };
    let mut name: Vec<u8> = path.bytes().collect();
    name.push(0);
    let name =
        CStr8::from_bytes_with_nul(&name).map_err(|_| SourceError::Missing(path.to_string()))?;
    let size = client.tftp_get_file_size(server, name).map_err(failed)?;
    let buffer = allocate(path, size)?;
    let got = client
        .tftp_read_file(server, name, Some(buffer))
        .map_err(failed)?;
    if got != size {
        return Err(SourceError::Short(path.to_string(), got, size));
    }
    Ok(buffer)
}

/// Pages from the firmware that stay ours after boot services end.
#[allow(unsafe_code, reason = "a page allocation arrives as a raw pointer")]
fn allocate(path: &str, size: u64) -> Result<&'static mut [u8], SourceError> {
    if size > MAX_FILE {
        return Err(SourceError::TooLarge(path.to_string(), size));
    }
    let bytes = size as usize;
    let pages = bytes.div_ceil(4096).max(1);
    let start = boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_DATA, pages)
        .map_err(|_| SourceError::NoMemory(path.to_string(), size))?;
    // SAFETY: the firmware gave these pages to this call alone, and they are never given back.
    unsafe { start.write_bytes(0, pages * 4096) };
    // SAFETY: as above, and every byte is initialised now.
    Ok(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), bytes) })
}

#[allow(
    unsafe_code,
    reason = "opening a protocol without taking it from its driver"
)]
fn open_shared_pxe(device: uefi::Handle) -> uefi::Result<ScopedProtocol<BaseCode>> {
    let params = boot::OpenProtocolParams {
        handle: device,
        agent: boot::image_handle(),
        controller: None,
    };
    // SAFETY: taking the protocol exclusively would disconnect the firmware's network driver below it;
    // nothing else runs between here and ExitBootServices that could take the protocol away.
    unsafe { boot::open_protocol::<BaseCode>(params, boot::OpenProtocolAttributes::GetProtocol) }
}

/// The boot server.
fn server_address(client: &BaseCode) -> Option<IpAddr> {
    from_answers(client, bootfile::server_of_answer).map(IpAddr::from)
}

/// What `take` finds in what servers answered: the PXE reply first, then a proxy's offer, then the DHCP acknowledgement.
#[allow(unsafe_code, reason = "the firmware's packets are a union")]
fn from_answers<T>(client: &BaseCode, take: fn(&[u8]) -> Option<T>) -> Option<T> {
    let mode = client.mode();
    if mode.using_ipv6() {
        return None;
    }
    [mode.pxe_reply(), mode.proxy_offer(), mode.dhcp_ack()]
        .into_iter()
        .find_map(|packet| {
            // SAFETY: every byte of the union is the firmware's, zero where nothing arrived.
            take(unsafe { &packet.raw })
        })
}

/// Where on its volume the running image lies, by the device path that the firmware or a loader started it by.
fn own_path() -> Option<String> {
    let image = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle()).ok()?;
    let nodes = image.file_path()?.node_iter();
    let mut names = nodes
        .filter(|node| node.full_type() == (DeviceType::MEDIA, DeviceSubType::MEDIA_FILE_PATH))
        .map(|node| node.data());
    bootfile::of_nodes(&mut names)
}

/// Gives the pages back that [`allocate`] took.
#[allow(unsafe_code, reason = "pages go back as a raw pointer")]
fn give_back(bytes: &'static [u8]) {
    let pages = bytes.len().div_ceil(4096).max(1);
    // SAFETY: these are whole pages of one allocation, and the only reference to them is the one given up here.
    let _ = unsafe { boot::free_pages(NonNull::from(bytes).cast(), pages) };
}
