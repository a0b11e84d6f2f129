//! Frames between two guests: finding the one that answers, and hearing it, asleep meanwhile.
//!
//! Frames carry a local experimental type, and a number: 0 is a question to everybody.

use super::Error;
use super::net::{BROADCAST, FRAME_BYTES, Frame, Mac, Net};
use crate::{cpu, timer};

/// "Local Experimental EtherType 1" of IEEE 802.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// The network card's vector.
const VECTOR: u8 = 0x98;
/// How long to wait before everybody is asked again, in ticks, and how often.
const ASK_AGAIN: u64 = 20_000_000;
const QUESTIONS: u32 = 200;

/// A network card, with what is needed to sleep until a frame comes.
#[derive(Debug)]
pub struct Station {
    /// The card.
    pub net: Net,
    /// When the timer wakes this vCPU next.
    alarm: u64,
}

impl Station {
    /// Sets the first network card up.
    ///
    /// # Errors
    /// Where there is none, or it does not get ready.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            net: Net::open(0, Some(VECTOR))?,
            alarm: 0,
        })
    }

    /// A frame from here.
    #[must_use]
    pub fn frame(&self, to: Mac, number: u64) -> Frame {
        Frame {
            to,
            from: self.net.mac,
            ether_type: ETHER_TYPE,
            word: number.to_le_bytes(),
        }
    }

    /// The next frame of this kind and its length; waits for `limit` ticks, or up to twice that.
    pub fn hear(&mut self, limit: u64) -> Option<(Frame, u64)> {
        let start = cpu::ticks();
        loop {
            match self.net.take() {
                Some(heard) if heard.0.ether_type == ETHER_TYPE => return Some(heard),
                Some(_) => continue,
                None => {}
            }
            let now = cpu::ticks();
            if now.wrapping_sub(start) > limit {
                return None;
            }
            // Set anew only when it is over: that costs an exit.
            if now >= self.alarm {
                self.alarm = now.saturating_add(limit);
                timer::arm(self.alarm).ok()?;
            }
            cpu::halt_for_interrupt();
        }
    }

    /// Asks everybody until somebody answers; the address of who does.
    pub fn find_peer(&mut self) -> Option<Mac> {
        for _ in 0..QUESTIONS {
            let question = self.frame(BROADCAST, 0);
            self.net.send(&question, *FRAME_BYTES.start()).ok()?;
            let mut found = None;
            // Answers to several questions may come: none is to be taken for another's.
            while let Some((frame, _)) = self.hear(ASK_AGAIN) {
                found = Some(frame.from);
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Sends frame `number` to `peer` and takes what it sends back; whether that is right.
    #[must_use]
    pub fn bounce(&mut self, peer: Mac, number: u64, length: u64, limit: u64) -> bool {
        let frame = self.frame(peer, number);
        self.net.send(&frame, length).is_ok()
            && self.hear(limit).is_some_and(|(back, bytes)| {
                back.from == peer
                    && back.to == self.net.mac
                    && back.word == frame.word
                    && bytes == length
            })
    }
}
