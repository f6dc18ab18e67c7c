//! Commands of the operator.

use std::fmt::Write;

use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::sip::uri::Uri;

use crate::state::{Latest, Registration};
use crate::watch::Cause;
use crate::{Job, Scscf};

const HELP: &str = "commands:
  registrations     the first thousand registrations
  show IMPU         registrations of a public identity, with bindings
  deregister IMPI [rejected | deactivated | probation SECONDS]
                    ends all registrations of a private identity and tells the HSS; the UE hears
                    not to come again (rejected, the default), to come at once, or to come then
  reauthenticate IMPI [SECONDS]
                    the next REGISTER is challenged; with SECONDS, the registration ends by then
";
/// Lines of one answer.
const LISTED_LIMIT: usize = 1_000;

impl Scscf {
    pub(crate) fn administer(
        &mut self,
        now: Now,
        id: u64,
        command: &[String],
        out: &mut Vec<Output>,
    ) {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let text = match words.as_slice() {
            ["registrations"] => self.list(now),
            ["show", public_identity] => self.show(now, public_identity),
            ["deregister", private_identity, event @ ..] => match Cause::named(event) {
                Some(told) => {
                    let job = Job::Administer { id, told };
                    return self.begin_command(now, id, private_identity, job, out);
                }
                None => HELP.to_owned(),
            },
            ["reauthenticate", private_identity] => {
                let job = Job::Reauthenticate { id, within_seconds: None };
                return self.begin_command(now, id, private_identity, job, out);
            }
            ["reauthenticate", private_identity, seconds] => match seconds.parse() {
                Ok(seconds) => {
                    let job = Job::Reauthenticate { id, within_seconds: Some(seconds) };
                    return self.begin_command(now, id, private_identity, job, out);
                }
                Err(_) => format!("{seconds} is no number of seconds\n"),
            },
            _ => HELP.to_owned(),
        };
        out.push(Output::Reply { id, text });
    }

    fn begin_command(
        &mut self,
        now: Now,
        id: u64,
        private_identity: &str,
        job: Job,
        out: &mut Vec<Output>,
    ) {
        if self.begin(now, &Impi::new(private_identity), job, out).is_some() {
            let text = "busy: try again in a few seconds\n".to_owned();
            out.push(Output::Reply { id, text });
        }
    }

    /// TS 24.229 §5.4.1.6: the next REGISTER of a private identity is challenged. Shortened, it has to
    /// come soon; never below what a UE could have asked for. An emergency registration is left alone: nobody
    /// refreshes it for the network's sake, and its end would end it under a call (TS 24.229 §5.4.8.4).
    pub(crate) fn reauthenticate(
        &mut self,
        now: Now,
        private_identity: &Impi,
        id: u64,
        within_seconds: Option<u32>,
        out: &mut Vec<Output>,
    ) {
        let minimum = self.config.registration.expires_min_seconds;
        let ends_at = within_seconds.map(|seconds| now.as_secs() + u64::from(seconds.max(minimum)));
        let held = self.registrations.of(private_identity).to_vec();
        let mut text = String::new();
        for mut registration in held.into_iter().filter(Registration::has_binding) {
            registration.is_reauthentication_due = true;
            let bindings = registration.bindings.iter_mut();
            for binding in bindings.filter(|binding| !binding.is_emergency) {
                if let Some(ends_at) = ends_at.filter(|at| *at < binding.expires_at_seconds) {
                    binding.expires_at_seconds = ends_at;
                    binding.latest = Latest::Shortened;
                }
            }
            let _ = writeln!(text, "{} is challenged next time", registration.set());
            self.store(now, registration, Cause::Expired, out);
        }
        if text.is_empty() {
            text = "not registered\n".to_owned();
        }
        tracing::info!(
            procedure = "reauthentication",
            private_identity = %self.logged(private_identity.as_str()),
            ?within_seconds,
            "asked for by the operator"
        );
        out.push(Output::Reply { id, text });
        self.finish(now, private_identity, out);
    }

    fn list(&self, now: Now) -> String {
        let all = self.registrations.sorted();
        let mut text = format!("{} registrations\n", all.len());
        for registration in all.iter().take(LISTED_LIMIT) {
            describe(registration, now, &mut text);
        }
        text
    }

    fn show(&self, now: Now, public_identity: &str) -> String {
        let public_identity = match Uri::parse(public_identity) {
            Ok(uri) => uri.public_identity(),
            Err(_) => Impu::new(public_identity),
        };
        let mut text = String::new();
        for sharer in self.registrations.sharers(&public_identity) {
            let Some(registration) = self.registrations.find(sharer, &public_identity) else {
                continue;
            };
            describe(registration, now, &mut text);
            for identity in registration.identities() {
                let barred = if identity.is_barred { " (barred)" } else { "" };
                let _ = writeln!(text, "  identity {}{barred}", identity.identity);
            }
            for binding in &registration.bindings {
                let expires = binding.expires_seconds(now);
                let _ = writeln!(text, "  contact {} for {expires} s", binding.contact);
                let _ = writeln!(text, "    path {}", binding.path.join(", "));
            }
            let _ = writeln!(text, "  HSS {}", registration.hss_host);
        }
        match text.is_empty() {
            true => "not registered\n".to_owned(),
            false => text,
        }
    }
}

fn describe(registration: &Registration, now: Now, text: &mut String) {
    let soonest = registration.bindings.iter().map(|binding| binding.expires_seconds(now)).min();
    let _ = writeln!(
        text,
        "{} {} contacts={} expires={} visited={}",
        registration.private_identity,
        registration.set(),
        registration.bindings.len(),
        soonest.map_or("-".to_owned(), |seconds| seconds.to_string()),
        registration.visited_network,
    );
}
