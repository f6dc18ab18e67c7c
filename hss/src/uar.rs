//! User registration status query (TS 29.228 §6.1.1).

use common::cx::uar::UserAuthorizationType;
use common::cx::{Outcome, Uaa, Uar};

use crate::config::Config;
use crate::database::{Database, IdentityType, Server, State};
use crate::profile;
use crate::refusal::Refusal;

/// TS 29.228 §6.1.1.1: may this user register here, and which S-CSCF is for it?
///
/// # Errors
/// The first check that fails, in the order of the clause.
pub fn authorize(database: &Database, config: &Config, uar: &Uar) -> Result<Uaa, Refusal> {
    let private =
        database.private_identity(&uar.user_name)?.ok_or(Refusal::UnknownPrivateIdentity)?;
    let public =
        database.public_identity(&uar.public_identity)?.ok_or(Refusal::UnknownPublicIdentity)?;
    if public.identity_type != IdentityType::PublicIdentity {
        return Err(Refusal::NotDistinct);
    }
    if !database.is_associated(public.implicit_set, private.id)? {
        return Err(Refusal::NotAssociated);
    }
    if public.is_barred
        && !uar.is_emergency
        && !database.has_unbarred_identity(public.implicit_set)?
    {
        return Err(Refusal::Barred);
    }

    let subscription = database.subscription(private.subscription)?;
    let is_deregistration = uar.user_authorization_type == UserAuthorizationType::DeRegistration;
    if !is_deregistration {
        let visited = &uar.visited_network_identifier;
        if !uar.is_emergency && !profile::may_roam(config, &subscription, visited)? {
            return Err(Refusal::RoamingNotAllowed);
        }
        if subscription.is_suspended {
            return Err(Refusal::Suspended);
        }
    }

    if uar.user_authorization_type == UserAuthorizationType::RegistrationAndCapabilities {
        if config.restoration {
            database.set_reassignment_pending(subscription.id)?;
        }
        let capabilities = profile::capabilities(config, &subscription)?;
        return Ok(Uaa {
            outcome: Outcome::SUCCESS,
            server_name: None,
            server_capabilities: Some(capabilities),
        });
    }

    // The name is stored exactly while some identity of the subscription is registered,
    // unregistered or being authenticated: steps 5 and 7 of the table in one.
    let assigned = |outcome, server: &Server| {
        let server_name = Some(server.name.clone());
        Ok(Uaa { outcome, server_name, server_capabilities: None })
    };
    match (public.state, &subscription.server, is_deregistration) {
        (State::NotRegistered, _, true) => Err(Refusal::NotRegistered),
        (_, Some(server), true) => assigned(Outcome::SUCCESS, server),
        (_, Some(server), false) => assigned(Outcome::SUBSEQUENT_REGISTRATION, server),
        (State::NotRegistered, None, false) => Ok(Uaa {
            outcome: Outcome::FIRST_REGISTRATION,
            server_name: None,
            server_capabilities: Some(profile::capabilities(config, &subscription)?),
        }),
        (_, None, _) => Err(Refusal::Fault("a registered user has no S-CSCF".to_owned())),
    }
}
