//! What goes wrong in a run, and when: drawn from the seed before it begins.

use crate::bucket::Weather;
use crate::entropy::Dice;
use crate::net::Place;

/// Something that goes wrong, or is put right.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The process is killed; the machine keeps what it wrote.
    Kill(Place),
    /// The machine loses power: what was not synced is gone, or torn.
    LosePower(Place, IsTorn),
    /// The same in the middle of a write.
    LosePowerWriting(Place),
    /// All machines lose power at once.
    Blackout,
    /// Stopped in an orderly way, to come back.
    Stop(Place),
    Start(Place),
    /// The disk is lost; an empty one takes its place. At most one in a run: more may take what the promise does not cover.
    Wipe(Place),
    /// Whoever leads most stands still, as by SIGSTOP.
    StandStill(Place),
    GoOn(Place),
    /// One of the next syncs fails.
    FailSync(Place),
    /// Syncs take this long.
    SlowDisk(Place, (u64, u64)),
    /// These cannot reach the others.
    Part(Vec<Place>),
    /// One direction alone.
    CutOneWay(Place, Place),
    Lossy(u64),
    HealNet,
    Weather(Weather),
    /// The wall clock is wrong by this many milliseconds.
    WrongClock(Place, i64),
}

/// Whether parts of what was not synced survive.
pub(crate) type IsTorn = bool;

/// A run as it was drawn.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) machines: usize,
    /// Shards, a power of two.
    pub(crate) shards: u32,
    /// Age at which a tail is flushed.
    pub(crate) flush_millis: u64,
    /// New batches per thousand milliseconds.
    pub(crate) rate_per_mille: u64,
    /// How long things go wrong.
    pub(crate) length_millis: u64,
    pub(crate) merges: bool,
    /// Whether clients are at it already while the cluster grows.
    pub(crate) grows_under_load: bool,
    /// In order.
    pub(crate) events: Vec<(u64, Event)>,
}

impl Story {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut dice = Dice::of(seed, "story");
        let machines = match dice.below(10) {
            0 => 1,
            _ => 3,
        };
        let length_millis = dice.between(15_000, 35_000);
        let mut story = Self {
            machines,
            shards: if dice.per_mille(600) { 1 } else { 2 },
            flush_millis: dice.between(1_000, 6_000),
            rate_per_mille: dice.between(5, 20),
            length_millis,
            merges: dice.per_mille(400),
            grows_under_load: dice.per_mille(600),
            events: Vec::new(),
        };
        let mut at = dice.between(500, 3_000);
        while at < length_millis {
            story.draw_event(at, &mut dice);
            at += dice.between(300, 5_000);
        }
        story.events.sort_by_key(|(at, _)| *at);
        story
    }

    fn draw_event(&mut self, at: u64, dice: &mut Dice) {
        let place = usize::try_from(dice.below(self.machines as u64)).unwrap_or(0);
        let other = (place + 1) % self.machines;
        let short = dice.between(100, 4_000);
        let long = dice.between(2_000, 9_000);
        let has_wiped = self.events.iter().any(|(_, event)| matches!(event, Event::Wipe(_)));
        let mut add = |at, event| self.events.push((at, event));
        match dice.below(15) {
            0 => {
                add(at, Event::Kill(place));
                add(at + short, Event::Start(place));
            }
            1 | 2 => {
                add(at, Event::LosePower(place, dice.per_mille(500)));
                add(at + long, Event::Start(place));
            }
            3 => {
                add(at, Event::LosePowerWriting(place));
                add(at + long, Event::Start(place));
            }
            4 => {
                add(at, Event::Blackout);
                for place in 0..self.machines {
                    add(at + dice.between(500, 4_000), Event::Start(place));
                }
            }
            5 => {
                add(at, Event::StandStill(place));
                add(at + long, Event::GoOn(place));
            }
            6 => {
                add(at, Event::FailSync(place));
                add(at + long, Event::Start(place));
            }
            7 => {
                add(at, Event::SlowDisk(place, (50, 600)));
                add(at + long, Event::SlowDisk(place, (1, 4)));
            }
            8 | 9 => {
                add(at, Event::Part(vec![place]));
                add(at + long, Event::HealNet);
            }
            10 => {
                add(at, Event::CutOneWay(place, other));
                add(at + long, Event::HealNet);
            }
            11 => {
                add(at, Event::Lossy(dice.between(10, 200)));
                add(at + long, Event::HealNet);
            }
            12 => {
                let weather = match dice.below(4) {
                    0 => Weather {
                        is_away: true,
                        ..Weather::default()
                    },
                    1 => Weather {
                        lost_replies_per_mille: 500,
                        ..Weather::default()
                    },
                    2 => Weather {
                        refused_per_mille: 400,
                        ..Weather::default()
                    },
                    _ => Weather {
                        delay_millis: (300, 3_000),
                        ..Weather::default()
                    },
                };
                add(at, Event::Weather(weather));
                add(at + long, Event::Weather(Weather::default()));
            }
            13 if self.machines >= 3 && !has_wiped => {
                add(at, Event::Wipe(place));
                add(at + long, Event::Start(place));
            }
            _ => {
                if dice.per_mille(500) {
                    add(at, Event::Stop(place));
                    add(at + 4_000 + short, Event::Start(place));
                } else {
                    let hour = 3_600_000;
                    let wrong = [-hour, hour, 240_000, -10_000];
                    let wrong = dice.pick(&wrong).unwrap_or(hour);
                    add(at, Event::WrongClock(place, wrong));
                    add(at + long, Event::WrongClock(place, 0));
                }
            }
        }
    }
}
