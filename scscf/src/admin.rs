//! Commands of the operator.

use std::fmt::Write;

use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::sip::uri::Uri;

use crate::state::Registration;
use crate::{Job, Scscf};

const HELP: &str = "commands:
  registrations     the first thousand registrations
  show IMPU         registrations of a public identity, with bindings
  deregister IMPI   ends all registrations of a private identity and tells the HSS
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
            ["deregister", private_identity] => {
                let private_identity = Impi::new(*private_identity);
                let job = Job::Administer { id };
                match self.begin(now, &private_identity, job, out) {
                    None => return,
                    Some(_) => "busy: try again in a few seconds\n".to_owned(),
                }
            }
            _ => HELP.to_owned(),
        };
        out.push(Output::Reply { id, text });
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
