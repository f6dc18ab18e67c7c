//! The loop. One turn takes all inputs at hand, lets the core handle each at one time, stores what
//! the core changed, and only then releases the outputs, in order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use super::diameter::DiameterConnections;
use super::http::{self, Ask};
use super::inbox::{Inbox, count};
use super::plane::Plane;
use super::resolver::Resolver;
use super::sip_tcp::SipConnections;
use super::store::Store;
use super::udp::UdpSockets;
use super::{Shell, metrics};
use crate::ipsec::audit::Audit;
use crate::limits::Limits;
use crate::node::{Input, Node, Now, Output, Record, Transport};
use crate::questions::QuestionId;
use crate::stats::Samples;

/// Inputs of one turn.
const TURN_INPUTS: usize = 256;
/// How long a draining node may take to finish what it owes.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How long what was written last may take to leave.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);
const ASKS: usize = 64;

/// A core with everything it needs around it.
struct Loop<N> {
    node: N,
    clock: Clock,
    started: Instant,
    name: &'static str,
    limits: Limits,
    inbox: Rc<Inbox>,
    store: Option<Store>,
    udp: UdpSockets,
    tcp: SipConnections,
    diameter: DiameterConnections,
    resolver: Rc<Resolver>,
    plane: Option<Plane>,
    replies: HashMap<u64, oneshot::Sender<String>>,
    next_reply: u64,
    draining_since: Option<Instant>,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
}

/// Runs the core until `stops` says so once and the core owes nothing any more, or twice. An error
/// is something without which the daemon cannot start or go on.
pub(super) async fn run<N: Node>(
    name: &'static str,
    node: N,
    shell: &Shell,
    mut stops: mpsc::Receiver<()>,
) -> Result<(), String> {
    let (ask, mut asks) = mpsc::channel(ASKS);
    let listener = http::listener(&shell.http)?;
    let mut state = Loop::open(name, node, shell)?;
    let more = state.plane.as_ref().and_then(Plane::more_samples);
    let more = more.unwrap_or_else(|| Box::new(|_: &mut Samples| {}));
    let _http = listener.map(|listener| http::start(listener, ask, more)).transpose()?;
    loop {
        let wanted = state.wake_at();
        tokio::select! {
            () = state.inbox.arrived() => {}
            () = sleep_until(wanted) => {}
            Some(ask) = asks.recv() => state.answer(ask),
            stop = stops.recv() => {
                if stop.is_none() || state.draining_since.is_some() {
                    break;
                }
                tracing::info!("draining");
                state.draining_since = Some(Instant::now());
                state.inbox.push(Input::Drain);
            }
        }
        state.turn()?;
        if state.is_drained() {
            break;
        }
        // Lets the readers of sockets have their share.
        tokio::task::yield_now().await;
    }
    state.close().await;
    Ok(())
}

/// Addresses and ports that only ESP may reach.
pub(super) fn protected(shell: &Shell) -> Vec<SocketAddr> {
    let listens = shell.sip.iter().filter(|listen| listen.is_protected);
    listens.map(|listen| listen.address).collect()
}

async fn sleep_until(wanted: Option<Instant>) {
    match wanted {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl<N: Node> Loop<N> {
    fn open(name: &'static str, node: N, shell: &Shell) -> Result<Loop<N>, String> {
        let inbox = Rc::new(Inbox::new(shell.limits.queue));
        let store = shell.store.as_deref().map(Store::open).transpose()?;
        let records = store.as_ref().map_or(Ok(Vec::new()), Store::read)?;
        let resolver = Rc::new(Resolver::new(&shell.dns)?);
        let protected = protected(shell);
        let mut plane = shell
            .ipsec
            .as_ref()
            .map(|config| Plane::open(config, &protected, &inbox))
            .transpose()?;
        let device = plane.as_ref().and_then(Plane::device).map(str::to_owned);
        let sockets = |transport: Transport| -> Vec<(SocketAddr, Option<String>)> {
            let of_transport = shell.sip.iter().filter(|listen| listen.transport == transport);
            of_transport
                .map(|listen| (listen.address, device.clone().filter(|_| listen.is_protected)))
                .collect()
        };
        let devices =
            protected.iter().filter_map(|address| Some((*address, device.clone()?))).collect();
        let udp = UdpSockets::open(&sockets(Transport::Udp), &inbox)?;
        let tcp = SipConnections::open(&sockets(Transport::Tcp), devices, &inbox, &shell.limits)?;
        if let Some(plane) = &mut plane {
            plane.shut(&protected)?;
        }
        let diameter = DiameterConnections::open(
            shell.diameter_listen,
            shell.diameter_local,
            &resolver,
            &inbox,
            &shell.limits,
        )?;
        inbox.push(Input::Start { records });
        Ok(Loop {
            node,
            clock: Clock::start(),
            started: Instant::now(),
            name,
            limits: shell.limits.clone(),
            inbox,
            store,
            udp,
            tcp,
            diameter,
            resolver,
            plane,
            replies: HashMap::new(),
            next_reply: 1,
            draining_since: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
        })
    }

    fn wake_at(&self) -> Option<Instant> {
        let timeout = self.node.next_timeout().map(|at| self.clock.instant(at));
        let drained = self.draining_since.map(|since| since + DRAIN_PATIENCE);
        match (timeout, drained) {
            (Some(timeout), Some(drained)) => Some(timeout.min(drained)),
            (timeout, drained) => timeout.or(drained),
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        let now = self.clock.now();
        let counts = &self.inbox.counts;
        count(&counts.turns);
        // Start comes before any timeout.
        self.inbox.take(TURN_INPUTS, &mut self.inputs);
        for input in self.inputs.drain(..) {
            counts.input(&input);
            self.node.handle(now, input, &mut self.outputs);
        }
        if self.node.next_timeout().is_some_and(|at| at <= now) {
            counts.input(&Input::Timeout);
            self.node.handle(now, Input::Timeout, &mut self.outputs);
        }
        self.commit()?;
        self.release();
        Ok(())
    }

    /// Everything that the turn changed is on disk when this returns.
    fn commit(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let has_records = self.outputs.iter().any(|output| record(output).is_some());
        if has_records && let Some(store) = &mut self.store {
            store.write(self.outputs.iter().filter_map(record))?;
        }
        self.node.commit().map_err(|error| format!("store cannot be written: {error}"))?;
        self.inbox.counts.commit.borrow_mut().observe(began.elapsed());
        Ok(())
    }

    /// Outputs leave in order; messages are gathered and leave before the next effect that could
    /// change how they travel.
    fn release(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Sip { flow, bytes } => match flow.transport {
                    Transport::Udp => self.udp.send(flow, bytes),
                    Transport::Tcp => self.tcp.send(flow, bytes),
                },
                Output::Diameter { connection, bytes } => self.diameter.send(connection, bytes),
                Output::Connect { peer, host, port } => self.diameter.connect(peer, host, port),
                Output::Close { connection } => self.diameter.close(connection),
                Output::Resolve { id, question } => {
                    let (resolver, inbox) = (self.resolver.clone(), self.inbox.clone());
                    tokio::task::spawn_local(async move {
                        let began = Instant::now();
                        let answer = resolver.ask(&question).await;
                        inbox.counts.dns(&answer, began.elapsed());
                        inbox.push(Input::Resolved { id, answer });
                    });
                }
                Output::InstallSas { id, set } => self.install(id, &set),
                Output::KeepSas { set, until } => {
                    if let Some(plane) = &mut self.plane {
                        plane.keep(set, until);
                    }
                }
                Output::AuditSas { id, known } => {
                    let inbox = self.inbox.clone();
                    let done = move |result| inbox.push(Input::SasAudited { id, result });
                    match &mut self.plane {
                        Some(plane) => plane.audit(known, done),
                        None => done(Ok(Audit::default())),
                    }
                }
                Output::RemoveSas { set } => {
                    self.flush();
                    if let Some(plane) = &mut self.plane {
                        for (local, remote) in plane.connections(set) {
                            self.tcp.disconnect(local, remote);
                        }
                        plane.remove(set);
                    }
                }
                // Written in `commit`.
                Output::Persist { .. } => {}
                Output::Reply { id, text } => {
                    if let Some(reply) = self.replies.remove(&id) {
                        // Who asked may have gone.
                        let _ = reply.send(text);
                    }
                }
            }
        }
        self.outputs = outputs;
        self.flush();
    }

    fn install(&mut self, id: QuestionId, set: &crate::ipsec::sa::SaSet) {
        let result = match &mut self.plane {
            Some(plane) => plane.install(set),
            None => Err("this node has no data plane for IPsec".to_owned()),
        };
        self.inbox.push(Input::SasInstalled { id, result });
    }

    fn flush(&mut self) {
        self.udp.flush();
        self.tcp.flush();
        self.diameter.flush();
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            // Who asked may have gone, in all three.
            Ask::Samples(reply) => drop(reply.send(self.samples())),
            Ask::Ready(reply) => {
                let ready = match self.draining_since {
                    Some(_) => Err("draining".to_owned()),
                    None => self.node.ready(),
                };
                drop(reply.send(ready));
            }
            Ask::Admin { command, reply } => {
                let id = self.next_reply;
                self.next_reply += 1;
                self.replies.retain(|_, waiting| !waiting.is_closed());
                self.replies.insert(id, reply);
                self.inbox.push(Input::Admin { id, command });
            }
        }
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        self.node.samples(&mut samples);
        metrics::shell(&self.inbox.counts, &mut samples);
        metrics::limits(&self.limits, &mut samples);
        metrics::build(self.name, &mut samples);
        for (name, help, value) in [
            ("tessera_shell_queue_length", "Inputs waiting for a turn.", self.inbox.len()),
            ("tessera_shell_sip_connections", "Open TCP connections for SIP.", self.tcp.len()),
            (
                "tessera_shell_diameter_connections",
                "Open Diameter connections.",
                self.diameter.len(),
            ),
            ("tessera_core_owed", "Waits, turns and questions open.", self.node.owed()),
        ] {
            samples.gauge(name, help, &[], value as f64);
        }
        let uptime = self.started.elapsed().as_secs_f64();
        samples.gauge("tessera_uptime_seconds", "Since the daemon started.", &[], uptime);
        if let Some(plane) = &self.plane {
            plane.samples(&mut samples);
        }
        samples
    }

    fn is_drained(&self) -> bool {
        let Some(since) = self.draining_since else { return false };
        let is_idle = self.inbox.len() == 0 && self.node.owed() == 0;
        is_idle || since.elapsed() >= DRAIN_PATIENCE
    }

    /// Lets the last messages leave.
    async fn close(mut self) {
        let began = Instant::now();
        while !(self.tcp.is_written() && self.diameter.is_written())
            && began.elapsed() < FLUSH_PATIENCE
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(plane) = &mut self.plane {
            plane.close();
        }
    }
}

fn record(output: &Output) -> Option<&Record> {
    match output {
        Output::Persist { record } => Some(record),
        _ => None,
    }
}

/// The system's clock at the start and the time since: it never goes back, and a clock that is set
/// while the daemon runs moves no timer.
struct Clock {
    epoch: Duration,
    origin: Instant,
}

impl Clock {
    fn start() -> Clock {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { epoch, origin: Instant::now() }
    }

    fn now(&self) -> Now {
        Now::since_epoch(self.epoch + self.origin.elapsed())
    }

    fn instant(&self, at: Now) -> Instant {
        let span = at.elapsed_since_epoch().saturating_sub(self.epoch);
        // Further than a year off is never for a process.
        self.origin + span.min(self.origin.elapsed() + Duration::from_secs(31_536_000))
    }
}
