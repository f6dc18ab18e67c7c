//! Location-Info-Request and -Answer (TS 29.229 §6.1.5, §6.1.6).

use crate::cx::avp::{self, invalid, once, pass_over};
use crate::cx::{Outcome, Results, ServerCapabilities, write_supported_features};
use crate::diameter::message::{Builder, Failure, Message};

/// Originating-Request: ORIGINATING (TS 29.229 §6.3.34).
const ORIGINATING: u32 = 0;
/// User-Authorization-Type REGISTRATION_AND_CAPABILITIES, the only one that an LIR may carry.
const REGISTRATION_AND_CAPABILITIES: u32 = 2;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lir {
    pub public_identity: String,
    /// Originating-Request present.
    pub is_originating: bool,
    /// User-Authorization-Type REGISTRATION_AND_CAPABILITIES present.
    pub wants_capabilities: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lia {
    pub outcome: Outcome,
    pub server_name: Option<String>,
    pub server_capabilities: Option<ServerCapabilities>,
    pub wildcarded_public_identity: Option<String>,
    /// LIA-Flags bit 0: `server_name` is the application server of a public service identity.
    pub is_psi_direct: bool,
}

impl Lir {
    /// TS 29.229 §6.1.5: reads the AVPs of an LIR.
    pub fn decode(message: &Message) -> Result<Lir, Failure> {
        let mut public_identity = None;
        let mut lir = Lir::default();
        for avp in message.avps() {
            if avp.is(avp::PUBLIC_IDENTITY) {
                once(&mut public_identity, avp.text()?, &avp)?;
            } else if avp.is(avp::ORIGINATING_REQUEST) {
                if avp.number()? != ORIGINATING {
                    return Err(invalid(&avp));
                }
                lir.is_originating = true;
            } else if avp.is(avp::USER_AUTHORIZATION_TYPE) {
                match avp.number()? {
                    REGISTRATION_AND_CAPABILITIES => lir.wants_capabilities = true,
                    0 | 1 => {}
                    _ => return Err(invalid(&avp)),
                }
            } else {
                pass_over(&avp)?;
            }
        }
        lir.public_identity =
            public_identity.ok_or_else(|| Failure::missing(avp::PUBLIC_IDENTITY))?.to_owned();
        Ok(lir)
    }

    /// TS 29.229 §6.1.5: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        if self.is_originating {
            builder.number(avp::ORIGINATING_REQUEST, ORIGINATING);
        }
        builder.text(avp::PUBLIC_IDENTITY, &self.public_identity);
        if self.wants_capabilities {
            builder.number(avp::USER_AUTHORIZATION_TYPE, REGISTRATION_AND_CAPABILITIES);
            write_supported_features(builder);
        }
    }
}

impl Lia {
    /// TS 29.229 §6.1.6: reads an LIA.
    pub fn decode(message: &Message) -> Result<Lia, Failure> {
        let mut results = Results::default();
        let (mut server_name, mut server_capabilities) = (None, None);
        let mut wildcarded_public_identity = None;
        let mut is_psi_direct = false;
        for avp in message.avps() {
            if avp.is(avp::SERVER_NAME) {
                server_name = Some(avp.text()?.to_owned());
            } else if avp.is(avp::SERVER_CAPABILITIES) {
                server_capabilities = Some(ServerCapabilities::decode(&avp)?);
            } else if avp.is(avp::WILDCARDED_PUBLIC_IDENTITY) {
                wildcarded_public_identity = Some(avp.text()?.to_owned());
            } else if avp.is(avp::LIA_FLAGS) {
                is_psi_direct = avp.number()? & avp::LIA_FLAG_PSI_DIRECT_ROUTING != 0;
            } else {
                results.take(&avp)?;
            }
        }
        let outcome = results.outcome()?;
        Ok(Lia {
            outcome,
            server_name,
            server_capabilities,
            wildcarded_public_identity,
            is_psi_direct,
        })
    }

    /// TS 29.229 §6.1.6: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        self.outcome.encode(builder);
        avp::optional_text(builder, avp::SERVER_NAME, self.server_name.as_deref());
        if let Some(server_capabilities) = &self.server_capabilities {
            server_capabilities.encode(builder);
        }
        let wildcarded = self.wildcarded_public_identity.as_deref();
        avp::optional_text(builder, avp::WILDCARDED_PUBLIC_IDENTITY, wildcarded);
        if self.is_psi_direct {
            builder.number(avp::LIA_FLAGS, avp::LIA_FLAG_PSI_DIRECT_ROUTING);
        }
    }
}
