//! Registration-Termination-Request and -Answer (TS 29.229 §6.1.9, §6.1.10).

use crate::cx::avp::{self, invalid, once, pass_over};
use crate::cx::{Outcome, Results};
use crate::diameter::base;
use crate::diameter::message::{Avp, Builder, Failure, Message};

/// Reason-Code (TS 29.229 §6.3.17); values 0 to 3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ReasonCode {
    #[default]
    PermanentTermination,
    NewServerAssigned,
    ServerChange,
    RemoveScscf,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rtr {
    pub destination_host: String,
    pub user_name: String,
    pub associated_identities: Vec<String>,
    pub public_identities: Vec<String>,
    pub reason_code: ReasonCode,
    pub reason_info: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rta {
    pub outcome: Outcome,
    pub associated_identities: Vec<String>,
    /// What stays registered although it was named.
    pub emergency_registrations: Vec<EmergencyRegistration>,
}

/// Identity-with-Emergency-Registration (TS 29.229 §6.1.10).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EmergencyRegistration {
    pub user_name: String,
    pub public_identity: String,
}

impl Rtr {
    /// TS 29.229 §6.1.9: reads the AVPs of an RTR.
    pub fn decode(message: &Message) -> Result<Rtr, Failure> {
        let (mut destination_host, mut user_name, mut reason) = (None, None, None);
        let mut rtr = Rtr::default();
        for avp in message.avps() {
            if avp.is(base::DESTINATION_HOST) {
                once(&mut destination_host, avp.text()?, &avp)?;
            } else if avp.is(base::USER_NAME) {
                once(&mut user_name, avp.text()?, &avp)?;
            } else if avp.is(avp::ASSOCIATED_IDENTITIES) {
                rtr.associated_identities = avp::user_names(&avp)?;
            } else if avp.is(avp::PUBLIC_IDENTITY) {
                rtr.public_identities.push(avp.text()?.to_owned());
            } else if avp.is(avp::DEREGISTRATION_REASON) {
                once(&mut reason, deregistration_reason(&avp)?, &avp)?;
            } else {
                pass_over(&avp)?;
            }
        }
        rtr.destination_host =
            destination_host.ok_or_else(|| Failure::missing(base::DESTINATION_HOST))?.to_owned();
        rtr.user_name = user_name.ok_or_else(|| Failure::missing(base::USER_NAME))?.to_owned();
        (rtr.reason_code, rtr.reason_info) =
            reason.ok_or_else(|| Failure::missing(avp::DEREGISTRATION_REASON))?;
        Ok(rtr)
    }

    /// TS 29.229 §6.1.9: the AVPs behind the common ones, of which Destination-Host is one.
    pub fn encode(&self, builder: &mut Builder) {
        builder.text(base::USER_NAME, &self.user_name);
        let identities = &self.associated_identities;
        avp::write_user_names(builder, avp::ASSOCIATED_IDENTITIES, identities);
        for public_identity in &self.public_identities {
            builder.text(avp::PUBLIC_IDENTITY, public_identity);
        }
        builder.group(avp::DEREGISTRATION_REASON, |group| {
            group.number(avp::REASON_CODE, self.reason_code as u32);
            avp::optional_text(group, avp::REASON_INFO, self.reason_info.as_deref());
        });
    }
}

/// TS 29.229 §6.3.16: Reason-Code and Reason-Info.
fn deregistration_reason(group: &Avp<'_>) -> Result<(ReasonCode, Option<String>), Failure> {
    let (mut code, mut info) = (None, None);
    for avp in group.group()? {
        if avp.is(avp::REASON_CODE) {
            code = Some(match avp.number()? {
                0 => ReasonCode::PermanentTermination,
                1 => ReasonCode::NewServerAssigned,
                2 => ReasonCode::ServerChange,
                3 => ReasonCode::RemoveScscf,
                _ => return Err(invalid(&avp)),
            });
        } else if avp.is(avp::REASON_INFO) {
            info = Some(avp.text()?.to_owned());
        }
    }
    Ok((code.ok_or_else(|| Failure::missing(avp::REASON_CODE))?, info))
}

impl Rta {
    /// TS 29.229 §6.1.10: reads an RTA.
    pub fn decode(message: &Message) -> Result<Rta, Failure> {
        let mut results = Results::default();
        let mut rta = Rta::default();
        for avp in message.avps() {
            if avp.is(avp::ASSOCIATED_IDENTITIES) {
                rta.associated_identities = avp::user_names(&avp)?;
            } else if avp.is(avp::IDENTITY_WITH_EMERGENCY_REGISTRATION) {
                rta.emergency_registrations.push(EmergencyRegistration::decode(&avp)?);
            } else {
                results.take(&avp)?;
            }
        }
        rta.outcome = results.outcome()?;
        Ok(rta)
    }

    /// TS 29.229 §6.1.10: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        self.outcome.encode(builder);
        let identities = &self.associated_identities;
        avp::write_user_names(builder, avp::ASSOCIATED_IDENTITIES, identities);
        for one in &self.emergency_registrations {
            builder.group(avp::IDENTITY_WITH_EMERGENCY_REGISTRATION, |group| {
                group.text(base::USER_NAME, &one.user_name);
                group.text(avp::PUBLIC_IDENTITY, &one.public_identity);
            });
        }
    }
}

impl EmergencyRegistration {
    fn decode(group: &Avp<'_>) -> Result<EmergencyRegistration, Failure> {
        let (mut user_name, mut public_identity) = (None, None);
        for avp in group.group()? {
            if avp.is(base::USER_NAME) {
                user_name = Some(avp.text()?.to_owned());
            } else if avp.is(avp::PUBLIC_IDENTITY) {
                public_identity = Some(avp.text()?.to_owned());
            }
        }
        Ok(EmergencyRegistration {
            user_name: user_name.ok_or_else(|| Failure::missing(base::USER_NAME))?,
            public_identity: public_identity
                .ok_or_else(|| Failure::missing(avp::PUBLIC_IDENTITY))?,
        })
    }
}
