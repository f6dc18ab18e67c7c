//! The radio link of one UE in one direction, as much of it as IMS notices: delay, jitter, loss,
//! rate, handover gap and MTU. Pure and seeded: same offers, same fate of each packet.
//!
//! Packets stay in order, as RLC delivers them (TS 36.322 §4.2.1).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a link behaves. All zero is a perfect link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// One-way delay.
    pub delay_milliseconds: f64,
    /// On top of the delay, uniform from zero to this.
    pub jitter_milliseconds: f64,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Zero: unlimited.
    pub rate_bits_per_second: u64,
    /// What waits for the rate beyond this many octets is dropped. Used with a rate only.
    pub queue_octets: u64,
    /// Longest IP packet; zero: any.
    pub mtu: u16,
    /// Time between the starts of two handovers; zero: none.
    pub handover_every_milliseconds: f64,
    /// How long a handover holds packets back. They are forwarded, not lost (TS 36.300 §10.1.2.1).
    pub handover_gap_milliseconds: f64,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            delay_milliseconds: 0.0,
            jitter_milliseconds: 0.0,
            loss: 0.0,
            rate_bits_per_second: 0,
            queue_octets: 262_144,
            mtu: 0,
            handover_every_milliseconds: 0.0,
            handover_gap_milliseconds: 0.0,
        }
    }
}

impl Profile {
    /// What is wrong with it, naming the setting.
    pub fn check(&self) -> Result<(), String> {
        let times = [
            ("delay_milliseconds", self.delay_milliseconds),
            ("jitter_milliseconds", self.jitter_milliseconds),
            ("handover_every_milliseconds", self.handover_every_milliseconds),
            ("handover_gap_milliseconds", self.handover_gap_milliseconds),
        ];
        for (name, milliseconds) in times {
            if !(0.0..=3_600_000.0).contains(&milliseconds) {
                return Err(format!("{name} = {milliseconds}: expected 0 to 3600000"));
            }
        }
        if !(0.0..=1.0).contains(&self.loss) {
            return Err(format!("loss = {}: expected 0 to 1", self.loss));
        }
        let (every, gap) = (self.handover_every_milliseconds, self.handover_gap_milliseconds);
        if every > 0.0 && gap >= every {
            return Err(format!(
                "handover_gap_milliseconds = {gap} must be shorter than \
                 handover_every_milliseconds = {every}"
            ));
        }
        Ok(())
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this time.
    Arrives(Duration),
    Lost,
    /// Longer than the MTU.
    TooLong,
    /// More waits for the rate than the queue holds.
    QueueFull,
}

/// A hundred thousand UEs have two of these each: the profile is shared by all that behave alike.
#[derive(Debug)]
pub struct Link {
    profile: Arc<Profile>,
    luck: Luck,
    /// The transmitter is busy until then.
    busy_until: Duration,
    /// No packet arrives before the one in front of it.
    last_arrival: Duration,
    /// Where in the cycle of handovers this link began.
    handover_phase: Duration,
    /// End of a handover that was asked for.
    gap_until: Duration,
}

/// SplitMix64: eight octets of state, and good enough for who is lost on the air. Nothing that must
/// not be guessed hangs on it.
#[derive(Debug)]
struct Luck(u64);

impl Link {
    pub fn new(profile: Arc<Profile>, seed: u64) -> Link {
        let mut luck = Luck(seed);
        let every = milliseconds(profile.handover_every_milliseconds);
        // Spread, so that not all UEs of a cell move at once.
        let handover_phase = every.mul_f64(luck.share());
        Link {
            profile,
            luck,
            busy_until: Duration::ZERO,
            last_arrival: Duration::ZERO,
            handover_phase,
            gap_until: Duration::ZERO,
        }
    }

    /// From now on the link behaves so.
    pub fn set_profile(&mut self, profile: Arc<Profile>) {
        self.profile = profile;
    }

    /// A handover begins now and holds packets back for `gap`.
    pub fn hand_over(&mut self, now: Duration, gap: Duration) {
        self.gap_until = self.gap_until.max(now + gap);
    }

    /// A packet of so many octets is handed to the link.
    pub fn offer(&mut self, now: Duration, octets: usize) -> Fate {
        if self.profile.mtu > 0 && octets > usize::from(self.profile.mtu) {
            return Fate::TooLong;
        }
        let rate = self.profile.rate_bits_per_second;
        if rate > 0 {
            let waiting = self.busy_until.saturating_sub(now).as_secs_f64() * rate as f64 / 8.0;
            if waiting + octets as f64 > self.profile.queue_octets as f64 {
                return Fate::QueueFull;
            }
        }
        let begins = self.after_handover(now.max(self.busy_until));
        let on_air = match rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(octets as f64 * 8.0 / rate as f64),
        };
        self.busy_until = begins + on_air;
        // A lost packet has used its time on the air. Both draws are always made, so that one
        // setting does not change the luck of another.
        let is_lost = self.luck.share() < self.profile.loss;
        let jitter = milliseconds(self.profile.jitter_milliseconds).mul_f64(self.luck.share());
        if is_lost {
            return Fate::Lost;
        }
        let arrival = self.busy_until + milliseconds(self.profile.delay_milliseconds) + jitter;
        self.last_arrival = arrival.max(self.last_arrival);
        Fate::Arrives(self.last_arrival)
    }

    /// The time itself, or the end of the handover that it falls into.
    fn after_handover(&self, at: Duration) -> Duration {
        let at = at.max(self.gap_until);
        let every = milliseconds(self.profile.handover_every_milliseconds);
        let gap = milliseconds(self.profile.handover_gap_milliseconds);
        if every.is_zero() {
            return at;
        }
        // The first handover comes after a whole gap-free stretch.
        let in_cycle = (at + self.handover_phase).as_nanos() % every.as_nanos();
        let stretch = every.saturating_sub(gap).as_nanos();
        if in_cycle < stretch {
            return at;
        }
        at + Duration::from_nanos((every.as_nanos() - in_cycle) as u64)
    }
}

impl Luck {
    /// Uniform from 0 to 1, without 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn milliseconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.max(0.0) / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(profile: Profile, seed: u64) -> Link {
        profile.check().unwrap();
        Link::new(Arc::new(profile), seed)
    }

    fn run(profile: &Profile, seed: u64) -> Vec<Fate> {
        let mut link = link(profile.clone(), seed);
        (0..10_000).map(|n| link.offer(Duration::from_millis(n), 500)).collect()
    }

    #[test]
    fn perfect_link_delivers_at_once() {
        let fates = run(&Profile::default(), 1);
        for (n, fate) in fates.iter().enumerate() {
            assert_eq!(*fate, Fate::Arrives(Duration::from_millis(n as u64)));
        }
    }

    #[test]
    fn same_seed_same_fates() {
        let profile = Profile {
            delay_milliseconds: 10.0,
            jitter_milliseconds: 5.0,
            loss: 0.1,
            handover_every_milliseconds: 1_000.0,
            handover_gap_milliseconds: 50.0,
            ..Profile::default()
        };
        assert_eq!(run(&profile, 3), run(&profile, 3));
        assert_ne!(run(&profile, 3), run(&profile, 4));
    }

    #[test]
    fn loss_and_jitter_have_their_statistics() {
        let profile = Profile {
            delay_milliseconds: 20.0,
            jitter_milliseconds: 0.9,
            loss: 0.1,
            ..Profile::default()
        };
        let fates = run(&profile, 5);
        let mut delays = Vec::new();
        for (n, fate) in fates.iter().enumerate() {
            if let Fate::Arrives(at) = fate {
                delays.push((*at - Duration::from_millis(n as u64)).as_secs_f64() * 1_000.0);
            }
        }
        let lost = 10_000 - delays.len();
        assert!((900..=1_100).contains(&lost), "{lost} of 10000 lost at 10 %");
        assert!(delays.iter().all(|delay| (20.0..=20.9).contains(delay)));
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        assert!((20.4..=20.5).contains(&mean), "mean delay {mean} ms");
    }

    #[test]
    fn packets_stay_in_order() {
        let profile = Profile { jitter_milliseconds: 40.0, ..Profile::default() };
        let mut last = Duration::ZERO;
        for fate in run(&profile, 6) {
            let Fate::Arrives(at) = fate else { panic!("nothing is lost here") };
            assert!(at >= last);
            last = at;
        }
    }

    #[test]
    fn rate_spaces_packets_and_fills_the_queue() {
        // 1 Mbit/s: 125 octets in one millisecond.
        let profile =
            Profile { rate_bits_per_second: 1_000_000, queue_octets: 1_250, ..Profile::default() };
        let mut link = link(profile, 7);
        let fates: Vec<_> = (0..12).map(|_| link.offer(Duration::ZERO, 125)).collect();
        for (n, fate) in fates[..10].iter().enumerate() {
            assert_eq!(*fate, Fate::Arrives(Duration::from_millis(n as u64 + 1)));
        }
        assert_eq!(fates[10..], [Fate::QueueFull, Fate::QueueFull]);
        let later = Duration::from_millis(5);
        assert_eq!(link.offer(later, 125), Fate::Arrives(Duration::from_millis(11)));
    }

    #[test]
    fn mtu_is_kept() {
        let mut link = link(Profile { mtu: 1_358, ..Profile::default() }, 8);
        assert_eq!(link.offer(Duration::ZERO, 1_358), Fate::Arrives(Duration::ZERO));
        assert_eq!(link.offer(Duration::ZERO, 1_359), Fate::TooLong);
    }

    #[test]
    fn handover_holds_packets_back() {
        let profile = Profile {
            handover_every_milliseconds: 1_000.0,
            handover_gap_milliseconds: 100.0,
            ..Profile::default()
        };
        let mut held = 0;
        for (n, fate) in run(&profile, 9).iter().enumerate() {
            let Fate::Arrives(at) = fate else { panic!("nothing is lost here") };
            let waited = *at - Duration::from_millis(n as u64);
            assert!(waited <= Duration::from_millis(100));
            held += usize::from(!waited.is_zero());
        }
        assert!((980..=1_010).contains(&held), "{held} packets held in ten gaps of 100 ms");
        let mut link = link(Profile::default(), 9);
        link.hand_over(Duration::from_secs(1), Duration::from_millis(50));
        let fate = link.offer(Duration::from_secs(1), 10);
        assert_eq!(fate, Fate::Arrives(Duration::from_millis(1_050)));
    }

    #[test]
    fn nonsense_is_named() {
        let loss = Profile { loss: 1.5, ..Profile::default() };
        assert!(loss.check().unwrap_err().contains("loss"));
        let delay = Profile { delay_milliseconds: f64::NAN, ..Profile::default() };
        assert!(delay.check().unwrap_err().contains("delay_milliseconds"));
        let gap = Profile {
            handover_every_milliseconds: 10.0,
            handover_gap_milliseconds: 10.0,
            ..Profile::default()
        };
        assert!(gap.check().unwrap_err().contains("handover_gap_milliseconds"));
    }
}
