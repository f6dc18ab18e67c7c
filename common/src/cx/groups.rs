//! Groups that several messages carry (TS 29.229 §6.3.4, §6.3.19).

use crate::cx::avp;
use crate::diameter::message::{Avp, Builder, Failure};

/// Server-Capabilities (TS 29.229 §6.3.4). All empty: any S-CSCF will do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerCapabilities {
    pub mandatory: Vec<u32>,
    pub optional: Vec<u32>,
    pub server_names: Vec<String>,
}

/// Charging-Information (TS 29.229 §6.3.19): DiameterURIs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChargingInformation {
    pub primary_event_charging: Option<String>,
    pub secondary_event_charging: Option<String>,
    pub primary_charging_collection: Option<String>,
    pub secondary_charging_collection: Option<String>,
}

impl ServerCapabilities {
    pub fn decode(group: &Avp<'_>) -> Result<ServerCapabilities, Failure> {
        let mut capabilities = ServerCapabilities::default();
        for avp in group.group()? {
            if avp.is(avp::MANDATORY_CAPABILITY) {
                capabilities.mandatory.push(avp.number()?);
            } else if avp.is(avp::OPTIONAL_CAPABILITY) {
                capabilities.optional.push(avp.number()?);
            } else if avp.is(avp::SERVER_NAME) {
                capabilities.server_names.push(avp.text()?.to_owned());
            }
        }
        Ok(capabilities)
    }

    pub fn encode(&self, builder: &mut Builder) {
        builder.group(avp::SERVER_CAPABILITIES, |group| {
            for capability in &self.mandatory {
                group.number(avp::MANDATORY_CAPABILITY, *capability);
            }
            for capability in &self.optional {
                group.number(avp::OPTIONAL_CAPABILITY, *capability);
            }
            for server_name in &self.server_names {
                group.text(avp::SERVER_NAME, server_name);
            }
        });
    }
}

impl ChargingInformation {
    pub fn decode(group: &Avp<'_>) -> Result<ChargingInformation, Failure> {
        let mut charging = ChargingInformation::default();
        for avp in group.group()? {
            let place = if avp.is(avp::PRIMARY_EVENT_CHARGING_FUNCTION_NAME) {
                &mut charging.primary_event_charging
            } else if avp.is(avp::SECONDARY_EVENT_CHARGING_FUNCTION_NAME) {
                &mut charging.secondary_event_charging
            } else if avp.is(avp::PRIMARY_CHARGING_COLLECTION_FUNCTION_NAME) {
                &mut charging.primary_charging_collection
            } else if avp.is(avp::SECONDARY_CHARGING_COLLECTION_FUNCTION_NAME) {
                &mut charging.secondary_charging_collection
            } else {
                continue;
            };
            *place = Some(avp.text()?.to_owned());
        }
        Ok(charging)
    }

    pub fn encode(&self, builder: &mut Builder) {
        builder.group(avp::CHARGING_INFORMATION, |group| {
            for (definition, name) in [
                (avp::PRIMARY_EVENT_CHARGING_FUNCTION_NAME, &self.primary_event_charging),
                (avp::SECONDARY_EVENT_CHARGING_FUNCTION_NAME, &self.secondary_event_charging),
                (avp::PRIMARY_CHARGING_COLLECTION_FUNCTION_NAME, &self.primary_charging_collection),
                (
                    avp::SECONDARY_CHARGING_COLLECTION_FUNCTION_NAME,
                    &self.secondary_charging_collection,
                ),
            ] {
                avp::optional_text(group, definition, name.as_deref());
            }
        });
    }
}
