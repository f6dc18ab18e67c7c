//! User-Authorization-Request and -Answer (TS 29.229 §6.1.1, §6.1.2).

use crate::cx::avp::{self, invalid, once, pass_over};
use crate::cx::{Outcome, Results, ServerCapabilities, write_supported_features};
use crate::diameter::base;
use crate::diameter::message::{Builder, Failure, Message};

/// User-Authorization-Type (TS 29.229 §6.3.24).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum UserAuthorizationType {
    #[default]
    Registration,
    DeRegistration,
    RegistrationAndCapabilities,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uar {
    pub user_name: String,
    pub public_identity: String,
    pub visited_network_identifier: String,
    pub user_authorization_type: UserAuthorizationType,
    /// UAR-Flags bit 0.
    pub is_emergency: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uaa {
    pub outcome: Outcome,
    pub server_name: Option<String>,
    pub server_capabilities: Option<ServerCapabilities>,
}

impl Uar {
    /// TS 29.229 §6.1.1: reads the AVPs of a UAR.
    pub fn decode(message: &Message) -> Result<Uar, Failure> {
        let (mut user_name, mut public_identity, mut network) = (None, None, None);
        let mut uar = Uar::default();
        for avp in message.avps() {
            if avp.is(base::USER_NAME) {
                once(&mut user_name, avp.text()?, &avp)?;
            } else if avp.is(avp::PUBLIC_IDENTITY) {
                once(&mut public_identity, avp.text()?, &avp)?;
            } else if avp.is(avp::VISITED_NETWORK_IDENTIFIER) {
                once(&mut network, avp.text()?, &avp)?;
            } else if avp.is(avp::USER_AUTHORIZATION_TYPE) {
                uar.user_authorization_type = UserAuthorizationType::from_number(avp.number()?)
                    .ok_or_else(|| invalid(&avp))?;
            } else if avp.is(avp::UAR_FLAGS) {
                uar.is_emergency = avp.number()? & avp::UAR_FLAG_EMERGENCY != 0;
            } else {
                pass_over(&avp)?;
            }
        }
        uar.user_name = user_name.ok_or_else(|| Failure::missing(base::USER_NAME))?.to_owned();
        uar.public_identity =
            public_identity.ok_or_else(|| Failure::missing(avp::PUBLIC_IDENTITY))?.to_owned();
        uar.visited_network_identifier =
            network.ok_or_else(|| Failure::missing(avp::VISITED_NETWORK_IDENTIFIER))?.to_owned();
        Ok(uar)
    }

    /// TS 29.229 §6.1.1: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        builder.text(base::USER_NAME, &self.user_name);
        builder.text(avp::PUBLIC_IDENTITY, &self.public_identity);
        builder.text(avp::VISITED_NETWORK_IDENTIFIER, &self.visited_network_identifier);
        builder.number(avp::USER_AUTHORIZATION_TYPE, self.user_authorization_type as u32);
        if self.is_emergency {
            builder.number(avp::UAR_FLAGS, avp::UAR_FLAG_EMERGENCY);
        }
        if self.user_authorization_type == UserAuthorizationType::RegistrationAndCapabilities {
            write_supported_features(builder);
        }
    }
}

impl UserAuthorizationType {
    fn from_number(number: u32) -> Option<UserAuthorizationType> {
        match number {
            0 => Some(UserAuthorizationType::Registration),
            1 => Some(UserAuthorizationType::DeRegistration),
            2 => Some(UserAuthorizationType::RegistrationAndCapabilities),
            _ => None,
        }
    }
}

impl Uaa {
    /// TS 29.229 §6.1.2: reads a UAA.
    pub fn decode(message: &Message) -> Result<Uaa, Failure> {
        let mut results = Results::default();
        let (mut server_name, mut server_capabilities) = (None, None);
        for avp in message.avps() {
            if avp.is(avp::SERVER_NAME) {
                server_name = Some(avp.text()?.to_owned());
            } else if avp.is(avp::SERVER_CAPABILITIES) {
                server_capabilities = Some(ServerCapabilities::decode(&avp)?);
            } else {
                results.take(&avp)?;
            }
        }
        Ok(Uaa { outcome: results.outcome()?, server_name, server_capabilities })
    }

    /// TS 29.229 §6.1.2: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        self.outcome.encode(builder);
        avp::optional_text(builder, avp::SERVER_NAME, self.server_name.as_deref());
        if let Some(server_capabilities) = &self.server_capabilities {
            server_capabilities.encode(builder);
        }
    }
}
