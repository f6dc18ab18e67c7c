//! Location query (TS 29.228 §6.1.4).

use common::cx::{Lia, Lir, Outcome};

use crate::config::Config;
use crate::database::{Database, State};
use crate::profile;
use crate::refusal::Refusal;

/// TS 29.228 §6.1.4.1: which S-CSCF, or application server, serves this identity?
///
/// # Errors
/// The first check that fails, in the order of the clause.
pub fn locate(database: &Database, config: &Config, lir: &Lir) -> Result<Lia, Refusal> {
    let public =
        database.public_identity(&lir.public_identity)?.ok_or(Refusal::UnknownPublicIdentity)?;
    let wildcard = public.is_wildcard().then(|| public.identity.clone());
    let answer = |outcome, server_name, server_capabilities| {
        Ok(Lia {
            outcome,
            server_name,
            server_capabilities,
            wildcarded_public_identity: wildcard.clone(),
            ..Lia::default()
        })
    };
    if public.is_service() {
        if !public.is_active {
            return Err(Refusal::InactiveService);
        }
        if let (Some(application_server), false) = (&public.application_server, lir.is_originating)
        {
            let answer = answer(Outcome::SUCCESS, Some(application_server.clone()), None)?;
            // TS 29.229 §6.3.56: what is named is no S-CSCF.
            return Ok(Lia { is_psi_direct: true, ..answer });
        }
    }

    let subscription = database.subscription(public.subscription)?;
    if lir.wants_capabilities && config.restoration {
        database.set_reassignment_pending(subscription.id)?;
        let capabilities = profile::capabilities(config, &subscription)?;
        return answer(Outcome::SUCCESS, None, Some(capabilities));
    }
    let has_services = lir.is_originating || public.has_unregistered_services;
    match (public.state, &subscription.server) {
        (State::NotRegistered, _) if !has_services => Err(Refusal::NotRegistered),
        (_, Some(server)) => answer(Outcome::SUCCESS, Some(server.name.clone()), None),
        (State::NotRegistered, None) => {
            let capabilities = profile::capabilities(config, &subscription)?;
            answer(Outcome::UNREGISTERED_SERVICE, None, Some(capabilities))
        }
        (_, None) => Err(Refusal::Fault("a registered user has no S-CSCF".to_owned())),
    }
}
