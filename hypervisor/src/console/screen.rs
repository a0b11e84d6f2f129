//! The log on the firmware's framebuffer.
//!
//! Lines wrap to the top instead of scrolling: copying a screenful of uncached memory for each line
//! would make the log slower than the boot it describes. A blank line marks where the newest ends.
#![allow(
    unsafe_code,
    reason = "the framebuffer is raw memory that the firmware described"
)]

use core::convert::Infallible;
use embedded_graphics::Drawable;
use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_8X13;
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::text::{Baseline, Text};

const CELL_WIDTH: u32 = 8;
const CELL_HEIGHT: u32 = 13;
/// White in every 32-bit pixel order.
const INK: u32 = 0x00ff_ffff;

/// A 32-bit-per-pixel framebuffer with a text cursor.
pub struct Screen {
    base: *mut u32,
    pixels: usize,
    width: u32,
    height: u32,
    stride: u32,
    column: u32,
    row: u32,
}

// SAFETY: the pointer is to the framebuffer, which belongs to this value alone and to no thread.
unsafe impl Send for Screen {}

impl Screen {
    /// A screen of `width` by `height` pixels, `stride` pixels a line.
    ///
    /// # Safety
    /// `base` must point to `bytes` bytes of framebuffer memory that stay mapped and that nothing else uses.
    #[must_use]
    pub unsafe fn new(base: *mut u32, bytes: usize, width: u32, height: u32, stride: u32) -> Self {
        let mut screen = Self {
            base,
            pixels: bytes / 4,
            width,
            height,
            stride,
            column: 0,
            row: 0,
        };
        for row in 0..screen.rows() {
            screen.clear_row(row);
        }
        screen
    }

    /// Physical start and length in bytes.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        (self.base as u64, self.pixels as u64 * 4)
    }

    /// Writes text at the cursor.
    pub fn write(&mut self, text: &str) {
        for character in text.chars() {
            if character == '\n' || self.column >= self.width / CELL_WIDTH {
                self.new_line();
            }
            if character != '\n' {
                self.put(character);
            }
        }
    }

    const fn rows(&self) -> u32 {
        self.height / CELL_HEIGHT
    }

    fn new_line(&mut self) {
        self.column = 0;
        self.row = (self.row + 1) % self.rows().max(1);
        self.clear_row(self.row);
        self.clear_row((self.row + 1) % self.rows().max(1));
    }

    fn put(&mut self, character: char) {
        let mut buffer = [0; 4];
        let glyph: &str = if character.is_ascii_graphic() || character == ' ' {
            character.encode_utf8(&mut buffer)
        } else {
            "?"
        };
        let at = Point::new(
            (self.column * CELL_WIDTH) as i32,
            (self.row * CELL_HEIGHT) as i32,
        );
        let style = MonoTextStyle::new(&FONT_8X13, BinaryColor::On);
        let Ok(_) = Text::with_baseline(glyph, at, style, Baseline::Top).draw(self);
        self.column += 1;
    }

    fn clear_row(&mut self, row: u32) {
        for y in row * CELL_HEIGHT..(row + 1) * CELL_HEIGHT {
            for x in 0..self.width {
                self.set(x, y, 0);
            }
        }
    }

    fn set(&mut self, x: u32, y: u32, colour: u32) {
        let index = y as usize * self.stride as usize + x as usize;
        if x < self.width && y < self.height && index < self.pixels {
            // SAFETY: the index is within the framebuffer that `new`'s caller vouched for.
            let pixel = unsafe { self.base.add(index) };
            // SAFETY: as above; volatile because the display reads it.
            unsafe { pixel.write_volatile(colour) };
        }
    }
}

impl OriginDimensions for Screen {
    fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }
}

impl DrawTarget for Screen {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<BinaryColor>>,
    {
        for Pixel(at, colour) in pixels {
            if let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) {
                self.set(x, y, if colour.is_on() { INK } else { 0 });
            }
        }
        Ok(())
    }
}
