//! Network namespaces, one for each node, and links between them that can be cut one way. Needs root.

use std::sync::atomic::{AtomicU32, Ordering};

/// Network namespaces on one bridge.
pub(super) struct Namespaces {
    tag: String,
    net: u8,
}

impl Namespaces {
    pub(super) fn make(count: usize) -> Option<Self> {
        // Tests run beside each other, in one process and in several.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() + 7 * MADE.fetch_add(1, Ordering::Relaxed);
        let tag = format!("vv{}", number % 10_000);
        let net = u8::try_from(number % 200 + 20).unwrap();
        let made = Self { tag, net };
        let bridge = format!("{}b", made.tag);
        let mut is_done = run(&["link", "add", &bridge, "type", "bridge"])
            && run(&["addr", "add", &format!("10.213.{net}.254/24"), "dev", &bridge])
            && run(&["link", "set", &bridge, "up"]);
        for number in 0..count {
            let (name, ip) = (made.name(number), made.ip(number));
            let (outer, inner) = (format!("{}o{number}", made.tag), format!("{}i{number}", made.tag));
            is_done = is_done
                && run(&["netns", "add", &name])
                && run(&["link", "add", &outer, "type", "veth", "peer", "name", &inner])
                && run(&["link", "set", &outer, "master", &bridge])
                && run(&["link", "set", &outer, "up"])
                && run(&["link", "set", &inner, "netns", &name])
                && run(&["-n", &name, "addr", "add", &format!("{ip}/24"), "dev", &inner])
                && run(&["-n", &name, "link", "set", &inner, "up"])
                && run(&["-n", &name, "link", "set", "lo", "up"]);
        }
        is_done.then_some(made)
    }

    pub(super) fn name(&self, number: usize) -> String {
        format!("{}n{number}", self.tag)
    }

    pub(super) fn ip(&self, number: usize) -> String {
        format!("10.213.{}.{}", self.net, number + 1)
    }

    /// Where all of them meet: this machine's own address.
    pub(super) fn gateway(&self) -> String {
        format!("10.213.{}.254", self.net)
    }

    /// What one sends goes no faster than this.
    pub(super) fn slow(&self, number: usize, rate: &str) {
        let device = format!("{}i{number}", self.tag);
        let words = [
            "-n",
            &self.name(number),
            "qdisc",
            "add",
            "dev",
            &device,
            "root",
            "tbf",
            "rate",
            rate,
        ];
        assert!(run_as(
            "tc",
            &[&words[..], &["burst", "32kbit", "latency", "400ms"]].concat()
        ));
    }

    /// Again as fast as it can.
    pub(super) fn hurry(&self, number: usize) {
        let device = format!("{}i{number}", self.tag);
        run_as(
            "tc",
            &["-n", &self.name(number), "qdisc", "del", "dev", &device, "root"],
        );
    }

    /// Nothing goes from one to the other any more, in that direction alone.
    pub(super) fn cut(&self, from: usize, to: usize) {
        assert!(run(&[
            "-n",
            &self.name(from),
            "route",
            "add",
            "blackhole",
            &self.ip(to)
        ]));
    }

    pub(super) fn heal(&self, from: usize, to: usize) {
        run(&["-n", &self.name(from), "route", "del", "blackhole", &self.ip(to)]);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for number in 0..3 {
            run(&["netns", "del", &self.name(number)]);
            run(&["link", "del", &format!("{}o{number}", self.tag)]);
        }
        run(&["link", "del", &format!("{}b", self.tag)]);
    }
}

fn run(words: &[&str]) -> bool {
    run_as("ip", words)
}

fn run_as(program: &str, words: &[&str]) -> bool {
    let output = std::process::Command::new(program).args(words).output();
    output.is_ok_and(|output| output.status.success())
}
