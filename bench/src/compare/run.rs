//! One measurement: a contender under a load, for some seconds.

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::{
    client,
    contender::{Contender, Found},
    generator::{Generator, Programs, Report},
    load::{Load, Shape},
    process::{CoreTime, Process, stay_on},
    sealing::Sealing,
};

/// Load before the measurement: caches and pools fill, windows grow.
const WARM_UP: Duration = Duration::from_secs(1);

/// Ports to listen on: below those that Linux gives to outgoing connections, of which there are many here.
pub(super) const PORTS: Range<u16> = 20_000..32_000;

/// What one measurement found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Run {
    pub(super) round: u32,
    pub(super) load: Load,
    pub(super) contender: Contender,
    pub(super) report: Report,
    /// The contender's time while the load ran.
    pub(super) time: CoreTime,
}

impl Run {
    /// The header of the CSV file.
    pub(super) const CSV_HEADER: &str = "round,load,proxy,requests,duration_us,requests_per_s,cpu_us_per_request,core_busy_percent,core_waited_percent,p50_us,p99_us,errors";

    /// The contender's processor time for each request, in microseconds.
    pub(super) fn cpu_us(&self) -> f64 {
        self.time.ran.as_secs_f64() * 1e6 / self.report.requests as f64
    }

    pub(super) fn requests_per_s(&self) -> f64 {
        self.report.requests as f64 * 1e6 / self.report.duration_us as f64
    }

    /// How busy the contender kept its core.
    pub(super) fn busy_percent(&self) -> f64 {
        self.time.ran.as_secs_f64() * 1e8 / self.report.duration_us as f64
    }

    /// How long others were on its core while it had something to do.
    pub(super) fn waited_percent(&self) -> f64 {
        self.time.waited.as_secs_f64() * 1e8 / self.report.duration_us as f64
    }

    /// Not a number where the generator does not tell.
    pub(super) fn p99_us(&self) -> f64 {
        self.report.p99_us.map_or(f64::NAN, |time| time as f64)
    }

    /// Its line of the CSV file.
    pub(super) fn csv(&self) -> String {
        let time = |us: Option<u64>| us.map_or_else(String::new, |us| us.to_string());
        format!(
            "{},{},{},{},{},{:.0},{:.3},{:.1},{:.1},{},{},{}",
            self.round,
            self.load.key(),
            self.contender.key(),
            self.report.requests,
            self.report.duration_us,
            self.requests_per_s(),
            self.cpu_us(),
            self.busy_percent(),
            self.waited_percent(),
            time(self.report.p50_us),
            time(self.report.p99_us),
            self.report.errors,
        )
    }
}

/// What all measurements have in common.
pub(super) struct Bench {
    /// This program, which is also the origin.
    pub(super) bench: PathBuf,
    pub(super) programs: Programs,
    pub(super) proxy_core: usize,
    pub(super) load_core: usize,
    pub(super) time: Duration,
    /// Where to look for the next free port.
    pub(super) next_port: Cell<u16>,
}

impl Bench {
    /// Starts origin and contender, checks them, and measures.
    pub(super) fn measure(&self, round: u32, load: Load, found: &Found) -> anyhow::Result<Run> {
        // Readable for everybody: nginx's worker gives up its rights before it needs its files.
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()?;
        let (shape, dir) = (load.shape(), dir.path());
        stay_on(self.load_core)?;
        let (origin_addr, proxy_addr) = (self.free_addr()?, self.free_addr()?);
        let mut command = Command::new(&self.bench);
        command.args(["origin", "--listen", &origin_addr.to_string()]);
        let origin = Process::start("origin", command, dir, origin_addr)?;
        let sealing = shape.way.is_sealed().then(|| Sealing::new(dir)).transpose()?;
        let command = found.command(dir, proxy_addr, origin_addr, sealing.as_ref(), shape.way)?;
        let proxy = self.start(found, command, dir, proxy_addr)?;
        let (_, expected) = client::ask(origin_addr, &shape)?;
        let measured = self.measure_running(&shape, &proxy, (dir, sealing.as_ref()), proxy_addr, &expected);
        let (report, time) = measured.with_context(|| {
            let words = [proxy.last_words(), origin.last_words()].concat();
            format!("{} under {:?}; it wrote: {words:?}", found.title(), shape.title)
        })?;
        Ok(Run { round, load, contender: found.contender, report, time })
    }

    /// An address that nobody listens on. Never the one before: its old connections linger in the kernel.
    fn free_addr(&self) -> anyhow::Result<SocketAddr> {
        for _ in PORTS {
            let port = self.next_port.get();
            self.next_port.set(if PORTS.contains(&(port + 1)) { port + 1 } else { PORTS.start });
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(addr).is_ok() {
                return Ok(addr);
            }
        }
        bail!("no port of {PORTS:?} is free on 127.0.0.1")
    }

    fn start(
        &self,
        found: &Found,
        command: Command,
        dir: &Path,
        proxy: SocketAddr,
    ) -> anyhow::Result<Process> {
        stay_on(self.proxy_core)?;
        let process = Process::start(&found.contender.key(), command, dir, proxy);
        stay_on(self.load_core)?;
        process
    }

    fn measure_running(
        &self,
        shape: &Shape,
        proxy: &Process,
        (dir, sealing): (&Path, Option<&Sealing>),
        proxy_addr: SocketAddr,
        expected: &client::Answer,
    ) -> anyhow::Result<(Report, CoreTime)> {
        let seen = match sealing {
            None => client::ask(proxy_addr, shape)?.1,
            Some(sealing) => client::ask_on(&mut sealing.connect(proxy_addr)?, proxy_addr, shape)?,
        };
        ensure!(seen == *expected, "the answer is not the origin's, but {seen:?}");
        let idle = (0..shape.idle).map(|_| Ok(client::ask(proxy_addr, shape)?.0));
        let idle: Vec<TcpStream> = idle.collect::<anyhow::Result<_>>()?;
        let generator = Generator::new(&self.programs, dir, sealing, shape, proxy_addr)?;
        generator.run(WARM_UP)?;
        let before = proxy.core_time()?;
        let mut report = generator.run(self.time)?;
        let time = proxy.core_time()?.since(before);
        ensure!(report.requests > 0, "no request was answered");
        // A proxy that closed them was measured under another load.
        report.errors += idle.iter().filter(|stream| !client::is_open(stream)).count() as u64;
        Ok((report, time))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn run(round: u32, load: Load, contender: Contender, cpu_us: u64) -> Run {
        let (p50_us, p99_us) = (Some(600), Some(1500));
        let report = Report { requests: 1000, duration_us: 2_000_000, errors: 0, p50_us, p99_us };
        let ran = Duration::from_micros(cpu_us * 1000);
        Run { round, load, contender, report, time: CoreTime { ran, waited: ran / 10 } }
    }

    #[test]
    fn a_line_has_as_many_columns_as_the_header_and_the_right_numbers() {
        let line = run(3, Load::Small512, Contender::Haproxy2, 13).csv();
        assert_eq!(line, "3,small512,haproxy2,1000,2000000,500,13.000,0.7,0.1,600,1500,0");
        assert_eq!(line.split(',').count(), Run::CSV_HEADER.split(',').count());
    }
}
