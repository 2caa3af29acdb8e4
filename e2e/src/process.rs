//! Child processes: [`Process`] is any, [`Node`] is ours.
//!
//! A child is ready when it says so, by a line or by answering; nothing here sleeps and hopes. Its output goes to a log
//! file and is kept in memory for the conditions. A child never outlives its handle.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::skip::Unavailable;

pub use crate::scratch::{Scratch, target_dir};

/// Environment variable: the `vivace` binary to test; `none` skips every test that needs one.
pub const VIVACE_BIN: &str = "VIVACE_BIN";

/// How long a child of ours may take from start to ready on a busy machine.
pub const START_WITHIN: Duration = Duration::from_secs(30);
/// How long a child may take to leave after SIGTERM.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a condition that cannot be waited on.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much of a log an error shows.
const TAIL_LINES: usize = 30;

/// A running child; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    output: Arc<Output>,
}

#[derive(Debug)]
struct Output {
    lines: Mutex<Vec<String>>,
    count: watch::Sender<usize>,
}

impl Process {
    /// Starts a program; both its outputs go to `<log_dir>/<name>.log`, appended if a former life wrote there.
    pub async fn start(name: &str, command: std::process::Command, log_dir: &Path) -> anyhow::Result<Self> {
        let log = log_dir.join(format!("{name}.log"));
        let file = tokio::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .await?;
        let file = Arc::new(tokio::sync::Mutex::new(file));
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let (count, _) = watch::channel(0);
        let output = Arc::new(Output {
            lines: Mutex::default(),
            count,
        });
        // Both readers end by themselves when the child closes its outputs, at the latest when it dies.
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(follow(stdout, Arc::clone(&file), Arc::clone(&output)));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(follow(stderr, file, Arc::clone(&output)));
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            output,
        })
    }

    /// Waits for the first line, past or to come, that `pick` makes something of.
    pub async fn line<T>(&mut self, within: Duration, mut pick: impl FnMut(&str) -> Option<T>) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + within;
        let mut count = self.output.count.subscribe();
        let mut looked_at = 0;
        loop {
            // The value is marked seen before the lines are read, so that a line arriving in between wakes us again.
            let _ = count.borrow_and_update();
            {
                let lines = self.output.lines();
                if let Some(found) = lines.iter().skip(looked_at).find_map(|line| pick(line)) {
                    return Ok(found);
                }
                looked_at = lines.len();
            }
            tokio::select! {
                _ = count.changed() => {}
                status = self.child.wait() => {
                    let status = status?;
                    // Its last lines may still be on their way through the pipe.
                    tokio::time::sleep(LOOK_EVERY).await;
                    let last = self.output.lines().iter().skip(looked_at).find_map(|line| pick(line));
                    return last.with_context(|| format!("{} ended with {status} first\n{}", self.name, self.tail()));
                }
                () = tokio::time::sleep_until(deadline) => {
                    bail!("{} did not print the awaited line within {within:?}\n{}", self.name, self.tail())
                }
            }
        }
    }

    /// Waits until something accepts connections there.
    pub async fn accepting(&mut self, addr: SocketAddr, within: Duration) -> anyhow::Result<()> {
        self.until(within, &format!("accept connections on {addr}"), async || {
            tokio::net::TcpStream::connect(addr).await.is_ok()
        })
        .await
    }

    /// Waits until a GET answers 2xx.
    pub async fn answering(&mut self, url: &str, within: Duration) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        self.until(within, &format!("answer {url}"), async || {
            client
                .get(url)
                .send()
                .await
                .is_ok_and(|response| response.status().is_success())
        })
        .await
    }

    /// Waits until the condition holds; fails at once if the child ends.
    pub async fn until(
        &mut self,
        within: Duration,
        what: &str,
        mut holds: impl AsyncFnMut() -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while !holds().await {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended with {status} instead of beginning to {what}\n{}",
                    self.name,
                    self.tail()
                );
            }
            if Instant::now() > deadline {
                bail!("{} did not {what} within {within:?}\n{}", self.name, self.tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("cannot kill {}", self.name))
    }

    /// SIGTERM, and waits until it has left by itself.
    pub async fn terminate(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                let tail = self.tail();
                self.kill().await?;
                bail!("{} was still there {within:?} after SIGTERM\n{tail}", self.name)
            }
        }
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} did not end within {within:?}\n{}", self.name, self.tail()),
        }
    }

    /// Sends a signal: `Signal::STOP` and `Signal::CONT` freeze and thaw it.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has already ended", self.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// The process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.output.lines().clone()
    }

    /// Where the output is kept.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn tail(&self) -> String {
        let lines = self.output.lines();
        let tail = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
        let tail: Vec<String> = tail.map(|line| format!("  | {line}")).collect();
        format!("last lines of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn follow(pipe: impl AsyncRead + Unpin, file: Arc<tokio::sync::Mutex<tokio::fs::File>>, output: Arc<Output>) {
    let mut pipe = BufReader::new(pipe);
    let mut raw = Vec::new();
    while pipe.read_until(b'\n', &mut raw).await.is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
        raw.clear();
        {
            // A log that cannot be written only costs the person reading it.
            let mut file = file.lock().await;
            let _ = file.write_all(line.as_bytes()).await;
            let _ = file.write_all(b"\n").await;
            let _ = file.flush().await;
        }
        let mut lines = output.lines();
        lines.push(line);
        output.count.send_replace(lines.len());
    }
}

/// How to start a node.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The binary, from [`vivace_bin`].
    pub bin: PathBuf,
    /// Kept over restarts; that is the point.
    pub data_dir: PathBuf,
    /// Where its log and its settings file go.
    pub log_dir: PathBuf,
    /// The settings file; sections that are missing keep their defaults.
    pub settings: serde_json::Value,
}

/// A single node of ours, ready to serve.
#[derive(Debug)]
pub struct Node {
    /// The process, to be killed or frozen.
    pub process: Process,
    /// OTLP over gRPC.
    pub otlp_grpc: SocketAddr,
    /// OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// Tempo's HTTP API.
    pub http: SocketAddr,
}

impl Node {
    /// Starts it on free ports and waits until `/ready` says so.
    pub async fn start(options: &NodeOptions) -> anyhow::Result<Self> {
        let mut node = Self::launch(options).await?;
        let ready = format!("{}/ready", node.http_url());
        node.process.answering(&ready, START_WITHIN).await?;
        Ok(node)
    }

    /// Starts it and waits for its addresses only.
    pub async fn launch(options: &NodeOptions) -> anyhow::Result<Self> {
        let mut command = std::process::Command::new(&options.bin);
        command.arg("standalone").arg("--data-dir").arg(&options.data_dir);
        for flag in ["--otlp-grpc-listen", "--otlp-http-listen", "--http-listen"] {
            command.arg(flag).arg("127.0.0.1:0");
        }
        // JSON is YAML too.
        let config = options.log_dir.join("vivace.yaml");
        tokio::fs::write(&config, serde_json::to_vec_pretty(&options.settings)?).await?;
        command.arg("--config").arg(&config);
        Self::announced(Process::start("vivace", command, &options.log_dir).await?).await
    }

    /// The node that this process is, once it has said where it listens.
    pub async fn announced(mut process: Process) -> anyhow::Result<Self> {
        let otlp_grpc = process.line(START_WITHIN, |line| listening(line, "otlp-grpc")).await?;
        let otlp_http = process.line(START_WITHIN, |line| listening(line, "otlp-http")).await?;
        let http = process.line(START_WITHIN, |line| listening(line, "http")).await?;
        Ok(Self {
            process,
            otlp_grpc,
            otlp_http,
            http,
        })
    }

    /// Base of Tempo's API.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Base of OTLP/HTTP.
    pub fn otlp_http_url(&self) -> String {
        format!("http://{}", self.otlp_http)
    }

    /// Base of OTLP/gRPC.
    pub fn otlp_grpc_url(&self) -> String {
        format!("http://{}", self.otlp_grpc)
    }

    /// Stops it in order, and fails if it left badly or had panicked.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let status = self.process.terminate(STOP_WITHIN).await?;
        self.assert_no_panic()?;
        if !status.success() {
            bail!("vivace left with {status} after SIGTERM\n{}", self.process.tail());
        }
        Ok(())
    }

    /// Fails if a panic was printed.
    pub fn assert_no_panic(&self) -> anyhow::Result<()> {
        match self.process.lines().iter().find(|line| line.contains("panicked at")) {
            Some(line) => bail!("vivace panicked: {line}\n{}", self.process.tail()),
            None => Ok(()),
        }
    }
}

/// For programs that cannot bind port 0 and say what they got.
///
/// Below the ports that the kernel hands out to whoever binds port 0 or connects, so that none of those takes it before
/// the program does; never twice in one process, and processes begin at different places.
pub fn free_addr() -> anyhow::Result<SocketAddr> {
    const PORTS: Range<u32> = 10_000..32_768;
    static HANDED_OUT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(61);
    for _ in PORTS {
        let next = begin.wrapping_add(HANDED_OUT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + next % (PORTS.end - PORTS.start))?;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
    anyhow::bail!("no port is free below {}", PORTS.end)
}

/// Reads `listening <name> <addr>`.
pub fn listening(line: &str, name: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    (words.next() == Some("listening") && words.next() == Some(name))
        .then(|| words.next()?.parse().ok())
        .flatten()
}

/// Finds the binary to test: the one that [`VIVACE_BIN`] names, else the youngest of the workspace's own builds.
///
/// # Panics
/// When `VIVACE_BIN` names a file that is not there: who asks for a certain binary must not get a green run without it.
pub fn vivace_bin() -> Result<PathBuf, Unavailable> {
    if let Some(named) = std::env::var_os(VIVACE_BIN) {
        if named == "none" {
            return Err(Unavailable(format!("{VIVACE_BIN}=none")));
        }
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "{VIVACE_BIN} names {}, which is not there",
            named.display()
        );
        return Ok(named);
    }
    let target = target_dir();
    let builds = ["ci", "release", "debug"].map(|profile| target.join(profile).join("vivace"));
    let age = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
    let youngest = builds.into_iter().filter(|path| path.is_file()).max_by_key(age);
    youngest.ok_or_else(|| {
        Unavailable(format!(
            "no vivace binary; build one with `cargo build --profile ci --bin vivace` or set {VIVACE_BIN}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> std::process::Command {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn reads_listening_lines() {
        let addr = Some(SocketAddr::from(([127, 0, 0, 1], 4317)));
        assert_eq!(listening("listening otlp-grpc 127.0.0.1:4317", "otlp-grpc"), addr);
        assert_eq!(listening("listening otlp-grpc 127.0.0.1:4317", "otlp-http"), None);
        assert_eq!(listening("INFO listening http 127.0.0.1:4317", "http"), None);
    }

    #[tokio::test]
    async fn a_line_is_found_whenever_it_came() {
        let scratch = Scratch::new("process-line").unwrap();
        let script = shell("echo first; echo 'listening http 127.0.0.1:9'; exec sleep 60");
        let mut process = Process::start("child", script, scratch.path()).await.unwrap();
        let addr = process
            .line(START_WITHIN, |line| listening(line, "http"))
            .await
            .unwrap();
        assert_eq!(addr.port(), 9);
        process
            .line(START_WITHIN, |line| (line == "first").then_some(()))
            .await
            .unwrap();
        process.kill().await.unwrap();
        assert_eq!(process.id(), None);
    }

    #[tokio::test]
    async fn a_child_that_dies_is_an_error_with_its_last_words() {
        let scratch = Scratch::new("process-dies").unwrap();
        let mut process = Process::start("child", shell("echo no such disk; exit 3"), scratch.path())
            .await
            .unwrap();
        let error = process
            .line(START_WITHIN, |line| listening(line, "http"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such disk") && error.contains('3'), "{error}");
    }

    #[tokio::test]
    async fn terminate_lets_it_leave_by_itself() {
        let scratch = Scratch::new("process-term").unwrap();
        let script = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        let mut process = Process::start("child", script, scratch.path()).await.unwrap();
        process
            .line(START_WITHIN, |line| (line == "up").then_some(()))
            .await
            .unwrap();
        assert!(process.terminate(STOP_WITHIN).await.unwrap().success());
        process
            .line(START_WITHIN, |line| (line == "bye").then_some(()))
            .await
            .unwrap();
    }
}
