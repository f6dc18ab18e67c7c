//! The simulated network: delay, loss, duplication and order, all drawn from the seed.

use std::time::Duration;

use common::random::Random;

/// How bad the network is. Shares are in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Packets lost on the radio, each direction.
    pub radio_loss: u32,
    /// Packets that arrive twice.
    pub duplication: u32,
    /// Datagrams lost inside the core.
    pub core_loss: u32,
    /// Packets held back long enough for later ones to overtake.
    pub reordering: u32,
    /// Sets of associations that the kernel refuses.
    pub kernel_refusals: u32,
}

#[derive(Debug)]
pub struct Network {
    pub faults: Faults,
    random: Random,
}

impl Network {
    pub fn new(random: Random) -> Network {
        Network { faults: Faults::default(), random }
    }

    fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.random.below(1_000) < u64::from(thousandths)
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1_000 + self.random.below((to - from) * 1_000))
    }

    /// When each copy of a packet on the radio arrives; none when it is lost.
    pub fn radio(&mut self) -> Vec<Duration> {
        let loss = self.faults.radio_loss;
        self.copies(loss, 8, 30)
    }

    /// The same for a datagram inside the core.
    pub fn datagram(&mut self) -> Vec<Duration> {
        let loss = self.faults.core_loss;
        self.copies(loss, 1, 3)
    }

    fn copies(&mut self, loss: u32, from: u64, to: u64) -> Vec<Duration> {
        let (duplication, reordering) = (self.faults.duplication, self.faults.reordering);
        let count = if self.chance(duplication) { 2 } else { 1 };
        let mut copies = Vec::new();
        for _ in 0..count {
            if self.chance(loss) {
                continue;
            }
            let held = if self.chance(reordering) { self.millis(50, 800) } else { Duration::ZERO };
            copies.push(held + self.millis(from, to));
        }
        copies
    }

    /// Streams and look-ups: late at times, never lost. Always the same delay, so that order holds.
    pub fn reliable(&mut self) -> Duration {
        Duration::from_millis(2)
    }

    /// When an ICMP error comes back from a host whose process is down, if it does.
    pub fn port_unreachable(&mut self) -> Option<Duration> {
        self.chance(500).then(|| Duration::from_millis(2))
    }

    pub fn kernel_refuses(&mut self) -> bool {
        let share = self.faults.kernel_refusals;
        self.chance(share)
    }

    pub fn kernel_takes(&mut self) -> Duration {
        Duration::from_micros(300)
    }
}
