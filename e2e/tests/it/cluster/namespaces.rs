//! Network namespaces, one for each node, and links between them that can be cut one way. Needs root.

/// Network namespaces on one bridge.
pub(super) struct Namespaces {
    tag: String,
    net: u8,
}

impl Namespaces {
    pub(super) fn make(count: usize) -> Option<Self> {
        let tag = format!("vv{}", std::process::id() % 10_000);
        let net = u8::try_from(std::process::id() % 200 + 20).unwrap();
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
    let output = std::process::Command::new("ip").args(words).output();
    output.is_ok_and(|output| output.status.success())
}
