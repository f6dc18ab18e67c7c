//! `lab load` and `lab capacity`: the load generator on the daemons of the lab, through the LTE transport.
//! `lab check load`: what it says is true.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scenarios::{Function, World};
use tokio::sync::mpsc;
use ue::load::population::Generated;

use crate::check::{Check, LabWorld, Tell, Wanted, run_all};
use crate::config::Plane;
use crate::laboratory::{DAEMONS, Laboratory, Options};
use crate::processes;
use crate::topology::IpVersion;

/// UEs of the checks.
pub const UES: usize = 200;

/// Cards by the formula of `ue population`, for the HSS and for the generator. The answer is their file.
pub fn write_population(directory: &Path, ues: usize) -> Result<PathBuf, String> {
    let generated =
        Generated { mcc: "001".into(), mnc: "01".into(), first: 1, count: ues, domain: None };
    generated.check()?;
    let path = population(directory);
    std::fs::write(&path, generated.csv())
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn population(directory: &Path) -> PathBuf {
    directory.join("population.csv")
}

/// Where the generator finds the lab.
#[derive(Clone, Debug, Default)]
struct Place {
    directory: PathBuf,
    servers: Vec<(&'static str, SocketAddr)>,
    version: &'static str,
    has_ipsec: bool,
}

impl Place {
    fn of(laboratory: &Laboratory) -> Place {
        let http = laboratory.http();
        let options: &Options = &laboratory.options;
        Place {
            directory: laboratory.working_directory().to_owned(),
            servers: DAEMONS
                .iter()
                .filter(|(name, ..)| *name != "as")
                .filter_map(|(name, ..)| Some((*name, *http.get(name)?)))
                .collect(),
            version: match options.version {
                IpVersion::V4 => "4",
                IpVersion::V6 => "6",
            },
            has_ipsec: options.plane != Plane::Off,
        }
    }

    /// `ue VERB` with all that it has to know of the lab.
    fn command(&self, verb: &str) -> Result<Command, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["ue", verb, "--radio"]).arg(self.directory.join("radio.sock"));
        command.arg("--population").arg(population(&self.directory));
        command.args(["--ip", self.version]);
        for (name, address) in &self.servers {
            command.arg("--metrics").arg(format!("{name}=http://{address}"));
        }
        if !self.has_ipsec {
            command.arg("--no-ipsec");
        }
        Ok(command)
    }
}

/// Runs `ue VERB` with these options while the lab goes on. The exit status is the generator's, or 1 when a
/// daemon has ended meanwhile.
pub async fn run(
    laboratory: &mut Laboratory,
    verb: &str,
    options: &[std::ffi::OsString],
) -> Result<ExitCode, String> {
    let mut command = Place::of(laboratory).command(verb)?;
    let transport = laboratory.options.transport.name().to_ascii_lowercase();
    command.args(["--transport", &transport]).args(options);
    processes::end_with_us(&mut command);
    // Ctrl-C is for the generator, which then ends in order; the lab ends after it.
    let mut interrupted = std::pin::pin!(ignore_interrupts());
    let mut child = command.spawn().map_err(|error| format!("ue: cannot be started: {error}"))?;
    let (_sender, mut asks) = mpsc::channel(1);
    let status = loop {
        tokio::select! {
            () = laboratory.step(&mut asks) => {}
            never = &mut interrupted => match never {},
        }
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => break status,
            Err(error) => return Err(format!("ue: {error}")),
        }
    };
    print_processes(laboratory);
    if let Some(directory) = laboratory.directory() {
        println!("lab: logs, configuration and population.csv in {}", directory.display());
    }
    Ok(match laboratory.casualties.is_empty() {
        true => code(status),
        false => ExitCode::FAILURE,
    })
}

async fn ignore_interrupts() -> std::convert::Infallible {
    loop {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// What each process has taken.
fn print_processes(laboratory: &Laboratory) {
    println!("\n{:8} {:>10} {:>12}", "process", "CPU", "peak memory");
    for process in laboratory.processes.values() {
        if let Some(usage) = process.usage() {
            let (cpu, memory) = (usage.cpu.as_secs_f64(), usage.peak_octets >> 20);
            println!("{:8} {cpu:8.1} s {memory:9} MB", process.name);
        }
    }
}

/// The generator in a check.
struct Generator {
    child: Child,
    report: PathBuf,
}

impl Generator {
    fn start(world: &LabWorld, name: &str, options: &[&str]) -> Result<Generator, String> {
        let place = world.ask(|laboratory| Place::of(laboratory));
        let report = place.directory.join(format!("{name}.json"));
        let mut command = place.command("load")?;
        command.args(options).arg("--quiet").arg("--json").arg(&report);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        processes::end_with_us(&mut command);
        let child = command.spawn().map_err(|error| format!("ue: {error}"))?;
        Ok(Generator { child, report })
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself, which the report then shows.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Its exit status and report.
    fn end(mut self, limit: Duration) -> Result<(i32, serde_json::Value), String> {
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if begin.elapsed() > limit => {
                    // Nobody else would.
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    return Err(format!("the generator has not ended within {limit:?}"));
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let text = std::fs::read_to_string(&self.report)
            .map_err(|error| format!("{status}, and no report: {error}"))?;
        let report = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        Ok((status.code().unwrap_or(-1), report))
    }
}

const CHECKS: [Check; 5] = [
    (
        "load_and_leave",
        "all of a mix succeed; after --deregister no node knows anybody",
        load_and_leave,
    ),
    ("storm_after_an_outage", "every UE re-registers after an outage", storm_after_an_outage),
    (
        "killed_in_traffic",
        "kill -9 of the P-CSCF while all re-register: all succeed, nobody registers anew",
        killed_in_traffic,
    ),
    (
        "slow_server",
        "a stopped P-CSCF makes attempts late, measured from when they were meant; the run is valid",
        slow_server,
    ),
    ("slow_generator", "a stopped generator makes the run invalid", slow_generator),
];

/// `lab check load`
pub fn run_checks(world: &mut LabWorld, wanted: &Wanted, tell: &mut Tell<'_>) -> bool {
    run_all(&CHECKS, world, wanted, tell)
}

/// How long a run of these checks may take: a REGISTER alone may be under way for 128 s.
const RUN_LIMIT: Duration = Duration::from_secs(240);
/// How long nodes may take to forget those who have left.
const LEAVE_LIMIT: Duration = Duration::from_secs(30);
/// How long somebody is stopped: more than [`LATE`].
const STOP: Duration = Duration::from_secs(4);
/// What makes the generator suspect here: a busy machine must not.
const LATE: &str = "1500ms";

fn load_and_leave(world: &mut LabWorld) -> Result<(), String> {
    let model = "[[phase]]\nname = \"up\"\nseconds = 3\nper_second = 40\n\
                 mix = { register = 1 }\n\n\
                 [[phase]]\nname = \"all kinds\"\nseconds = 6\nper_second = 40\nmix = \
                 { reregister = 6, register = 2, deregister = 2, reboot = 1, auts = 1, \
                 wrong_response = 1, wrong_key = 1 }\n";
    let model = write_model(world, "load_and_leave", model)?;
    let options = [
        "--model",
        &model,
        "--deregister",
        "--profile=samsung-tab=2,samsung-two-offers=1,qualcomm=1,qualcomm-compact=1,\
         huawei-six-offers=1,boghe=1",
        "--subscribe",
        "--late-after",
        LATE,
        "--require=success=100%",
    ];
    let before = known_to(world);
    let generator = Generator::start(world, "load_and_leave", &options)?;
    let (status, report) = generator.end(RUN_LIMIT)?;
    if status != 0 {
        return Err(format!("status {status}: {}", brief(&report)));
    }
    let left = world.until("all nodes have forgotten who has left", LEAVE_LIMIT, &mut |world| {
        known_to(world) == before
    });
    left.map_err(|error| format!("{error}: {:?}, {before:?} before", known_to(world)))?;
    let listed = world.ask(|laboratory| Some(listed_by_hss(laboratory.working_directory())));
    let listed = listed.unwrap_or_else(|| Err("no laboratory".into()))?;
    let registered = listed.lines().filter(|line| line.contains("\tregistered\t")).count();
    match (listed.lines().count(), registered) {
        (UES.., 0) => Ok(()),
        (all, some) => Err(format!("the HSS has {some} of {all} registered")),
    }
}

fn listed_by_hss(directory: &Path) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("hss").arg("--config").arg(directory.join("hss.toml"));
    command.args(["subscriber", "list"]).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("hss: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn storm_after_an_outage(world: &mut LabWorld) -> Result<(), String> {
    let model = "[[phase]]\nname = \"up\"\nseconds = 4\nper_second = 40\n\
                 arrivals = \"constant\"\nmix = { register = 1 }\n\n\
                 [[phase]]\nname = \"rest\"\nseconds = 2\n\n\
                 [[phase]]\nname = \"power cut\"\nstorm = \"reregister\"\n\
                 outage_seconds = 3\nseconds = 2\nshare = 1.0\n";
    let model = write_model(world, "storm", model)?;
    let options =
        ["--model", &model, "--deregister", "--late-after", LATE, "--require=success=100%"];
    let (status, report) = Generator::start(world, "storm", &options)?.end(RUN_LIMIT)?;
    let [up, storm] = [0, 2].map(|stage| &report["stages"][stage]);
    let registered = up["succeeded"].as_u64().unwrap_or(0);
    match (status, storm["offered"].as_u64()) {
        (0, Some(offered)) if offered == registered && registered > 0 => Ok(()),
        (_, offered) => Err(format!(
            "status {status}, {registered} registered, {offered:?} in the storm: {}",
            brief(&report)
        )),
    }
}

/// ipsec.md: the associations and the registrations are there again before a phone has given up.
fn killed_in_traffic(world: &mut LabWorld) -> Result<(), String> {
    let ues = world.ask(|laboratory| laboratory.options.load.unwrap_or(0));
    // So many a second as a small machine takes.
    let seconds = (ues / 400).max(5);
    let model = format!(
        "[[phase]]\nname = \"up\"\nseconds = {seconds}\nper_second = {}\n\
         arrivals = \"constant\"\nmix = {{ register = 1 }}\n\n\
         [[phase]]\nname = \"rest\"\nseconds = 2\n\n\
         [[phase]]\nname = \"all again\"\nstorm = \"reregister\"\nseconds = {seconds}\nshare = 1.0\n",
        ues / seconds
    );
    let model = write_model(world, "killed", &model)?;
    let options = ["--model", &model, "--late-after", LATE, "--require=success=100%"];
    let (before, first) = (refreshed(world), vectors(world));
    let generator = Generator::start(world, "killed", &options)?;
    world.until("a third of them have re-registered", RUN_LIMIT, &mut |world| {
        refreshed(world) - before > ues as f64 / 3.0
    })?;
    let taken = vectors(world);
    let begin = Instant::now();
    world.kill(Function::Pcscf);
    world.start(Function::Pcscf);
    let silence = begin.elapsed();
    let known = world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]);
    println!(
        "      ready again {:.3} s after kill -9, {known} registrations",
        silence.as_secs_f64()
    );
    let (status, report) = generator.end(RUN_LIMIT)?;
    let [up, storm] = [0, 2].map(|stage| &report["stages"][stage]);
    let registered = up["succeeded"].as_u64().unwrap_or(0);
    let all_again = storm["offered"].as_u64() == Some(registered);
    let challenged = vectors(world) - taken;
    let is_whole = known == registered as f64 && taken - first == known;
    match status == 0 && all_again && is_whole && challenged == 0.0 {
        true => Ok(()),
        false => Err(format!(
            "status {status}, {registered} registered, {known} behind the crash, {challenged} \
             challenged: {}",
            brief(&report)
        )),
    }
}

/// How many REGISTERs the S-CSCFs have taken as refreshes.
fn refreshed(world: &mut dyn World) -> f64 {
    let labels = [("outcome", "refreshed")];
    let at = |world: &mut dyn World, scscf| {
        world.metric(scscf, "tessera_scscf_registers_total", &labels)
    };
    at(world, Function::Scscf1) + at(world, Function::Scscf2)
}

fn write_model(world: &LabWorld, name: &str, model: &str) -> Result<String, String> {
    let directory = world.ask(|laboratory| laboratory.working_directory().to_owned());
    let path = directory.join(format!("{name}.toml"));
    std::fs::write(&path, model).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path.display().to_string())
}

/// Open-loop: what the server delays is measured, and does not delay what is offered.
fn slow_server(world: &mut LabWorld) -> Result<(), String> {
    let options = [
        "--rate=20",
        "--seconds=8",
        "--deregister",
        "--late-after",
        LATE,
        "--require=success=100%,max=2s",
    ];
    let before = vectors(world);
    let generator = Generator::start(world, "slow_server", &options)?;
    world.until("it has begun", RUN_LIMIT, &mut |world| vectors(world) >= before + 20.0)?;
    world.hang(Function::Pcscf, true);
    std::thread::sleep(STOP);
    world.hang(Function::Pcscf, false);
    let (status, report) = generator.end(RUN_LIMIT)?;
    let slowest = report["all"]["latency"]["complete"]["max"].as_f64().unwrap_or(0.0);
    let is_valid = report["generator"]["is_valid"].as_bool() == Some(true);
    let (offered, succeeded) = (&report["all"]["offered"], &report["all"]["succeeded"]);
    match (status, is_valid) {
        (1, true) if slowest > 2_000.0 && offered == succeeded => Ok(()),
        _ => Err(format!("status {status}, slowest {slowest} ms: {}", brief(&report))),
    }
}

fn slow_generator(world: &mut LabWorld) -> Result<(), String> {
    let options = ["--rate=20", "--seconds=8", "--deregister", "--late-after", LATE];
    let before = vectors(world);
    let generator = Generator::start(world, "slow_generator", &options)?;
    world.until("it has begun", RUN_LIMIT, &mut |world| vectors(world) >= before + 20.0)?;
    generator.signal(Signal::SIGSTOP);
    std::thread::sleep(STOP);
    generator.signal(Signal::SIGCONT);
    let (status, report) = generator.end(RUN_LIMIT)?;
    let reasons = report["generator"]["reasons"].to_string();
    match (status, reasons.contains("ms late")) {
        (3, true) => Ok(()),
        _ => Err(format!("status {status}, {reasons}: {}", brief(&report))),
    }
}

fn vectors(world: &mut dyn World) -> f64 {
    world.metric(Function::Hss, "tessera_hss_vectors_total", &[])
}

/// How many the P-CSCF and the S-CSCFs know. Associations outlive a deregistration by 64·T1, for what is
/// still to be said on them.
fn known_to(world: &mut dyn World) -> [f64; 3] {
    [
        world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]),
        world.metric(Function::Scscf1, "tessera_scscf_registrations", &[]),
        world.metric(Function::Scscf2, "tessera_scscf_registrations", &[]),
    ]
}

/// The counts of a report, in a line.
fn brief(report: &serde_json::Value) -> String {
    let all = &report["all"];
    format!(
        "offered {}, succeeded {}, causes {}, generator {}",
        all["offered"], all["succeeded"], all["causes"], report["generator"]["reasons"]
    )
}
