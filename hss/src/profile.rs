//! What the HSS sends along: User-Data, charging addresses, capabilities (TS 29.228 §6.6, §6.7,
//! Annexes B, E).

use common::cx::user_data;
use common::cx::user_data::{Condition, InitialFilterCriterion, ServiceProfile, UserData};
use common::cx::{ChargingInformation, ServerCapabilities};
use rusqlite::Row;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::database::{Database, Subscription};
use crate::refusal::Refusal;

/// The profile of all identities of an implicit set (TS 29.228 §6.6).
///
/// The order of provisioning is kept, because the first identity that is not barred is the default
/// one: neighbours with the same service profile share an element, others open a new one.
pub fn user_data(
    database: &Database,
    implicit_set: i64,
    private_identity: &str,
) -> Result<UserData, Refusal> {
    let rows = database.rows(
        "SELECT u.identity, u.is_barred, u.identity_type, u.display_name,
            u.alias_identity_group_id, u.service_profile, p.subscribed_media_profile_id,
            p.initial_filter_criteria, p.shared_ifc_set_ids
         FROM public_identity u JOIN service_profile p ON p.id = u.service_profile
         WHERE u.implicit_set = ?1 ORDER BY u.position",
        [implicit_set],
        profile_row,
    )?;
    let mut service_profiles: Vec<ServiceProfile> = Vec::new();
    let mut open = None;
    for row in rows {
        if open != Some(row.profile) {
            open = Some(row.profile);
            service_profiles.push(ServiceProfile {
                public_identities: Vec::new(),
                subscribed_media_profile_id: row.subscribed_media_profile_id,
                initial_filter_criteria: json(&row.initial_filter_criteria)?,
                shared_ifc_set_ids: json(&row.shared_ifc_set_ids)?,
            });
        }
        if let Some(profile) = service_profiles.last_mut() {
            profile.public_identities.push(row.identity);
        }
    }
    Ok(UserData { private_identity: private_identity.to_owned(), service_profiles })
}

struct ProfileRow {
    identity: user_data::PublicIdentity,
    profile: i64,
    subscribed_media_profile_id: Option<u32>,
    initial_filter_criteria: String,
    shared_ifc_set_ids: String,
}

fn profile_row(row: &Row<'_>) -> rusqlite::Result<ProfileRow> {
    let identity: String = row.get(0)?;
    let identity_type: u8 = row.get(2)?;
    Ok(ProfileRow {
        identity: user_data::PublicIdentity {
            wildcarded_identity: matches!(identity_type, 2 | 4).then(|| identity.clone()),
            identity,
            is_barred: row.get(1)?,
            identity_type,
            display_name: row.get(3)?,
            alias_identity_group_id: row.get(4)?,
        },
        profile: row.get(5)?,
        subscribed_media_profile_id: row.get(6)?,
        initial_filter_criteria: row.get(7)?,
        shared_ifc_set_ids: row.get(8)?,
    })
}

/// Charging addresses of the subscription, else those configured; `None` when there are none.
pub fn charging(
    database: &Database,
    config: &Config,
    subscription: &Subscription,
) -> Result<Option<ChargingInformation>, Refusal> {
    let information = match subscription.charging {
        None => Some(ChargingInformation::from(&config.charging)),
        Some(id) => database.row(
            "SELECT primary_event_charging, secondary_event_charging,
                primary_charging_collection, secondary_charging_collection
             FROM charging WHERE id = ?1",
            [id],
            |row| {
                Ok(ChargingInformation {
                    primary_event_charging: row.get(0)?,
                    secondary_event_charging: row.get(1)?,
                    primary_charging_collection: row.get(2)?,
                    secondary_charging_collection: row.get(3)?,
                })
            },
        )?,
    };
    Ok(information.filter(|information| *information != ChargingInformation::default()))
}

/// What an S-CSCF must and should be capable of (TS 29.228 §6.7).
pub fn capabilities(
    config: &Config,
    subscription: &Subscription,
) -> Result<ServerCapabilities, Refusal> {
    let mut capabilities = ServerCapabilities::from(&config.capabilities);
    if let Some(list) = &subscription.mandatory_capabilities {
        capabilities.mandatory = json(list)?;
    }
    if let Some(list) = &subscription.optional_capabilities {
        capabilities.optional = json(list)?;
    }
    if let Some(list) = &subscription.server_names {
        capabilities.server_names = json(list)?;
    }
    Ok(capabilities)
}

/// Whether the user may register in the visited network: our own realm always, else by the list of
/// the subscription or of the configuration; without a list anywhere.
pub fn may_roam(
    config: &Config,
    subscription: &Subscription,
    visited_network: &str,
) -> Result<bool, Refusal> {
    let own_list: Option<Vec<String>> =
        subscription.visited_networks.as_deref().map(json).transpose()?;
    let Some(allowed) = own_list.as_deref().or(config.visited_networks.as_deref()) else {
        return Ok(true);
    };
    // Some P-CSCFs leave the quotes of P-Visited-Network-ID in.
    let visited = visited_network.trim_matches('"');
    Ok(visited.eq_ignore_ascii_case(&config.diameter.realm)
        || allowed.iter().any(|network| is_network(network, visited)))
}

fn is_network(allowed: &str, visited: &str) -> bool {
    match allowed.strip_prefix('*') {
        None => allowed.eq_ignore_ascii_case(visited),
        Some(tail) => visited
            .len()
            .checked_sub(tail.len())
            .and_then(|start| visited.get(start..))
            .is_some_and(|end| end.eq_ignore_ascii_case(tail)),
    }
}

/// Whether criteria say what to do for a user who is not registered and is called
/// (TS 29.228 §6.1.4; SessionCase 2 is TERMINATING_UNREGISTERED).
pub fn has_unregistered_services(criteria: &[InitialFilterCriterion]) -> bool {
    criteria.iter().filter(|criterion| criterion.registered_part != Some(true)).any(|criterion| {
        let Some(trigger) = &criterion.trigger_point else { return true };
        let mut cases =
            trigger.service_point_triggers.iter().filter_map(|trigger| match trigger.condition {
                Condition::SessionCase(case) => Some((case == 2) != trigger.is_negated),
                _ => None,
            });
        // Without any session case the criterion is for all of them.
        match cases.next() {
            None => true,
            Some(first) => first || cases.any(|fits| fits),
        }
    })
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    serde_json::from_str(text)
        .map_err(|error| Refusal::Fault(format!("database: a list is not JSON: {error}")))
}
