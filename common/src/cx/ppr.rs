//! Push-Profile-Request and -Answer (TS 29.229 §6.1.11, §6.1.12).

use bytes::Bytes;

use crate::cx::avp::{self, once, pass_over};
use crate::cx::{ChargingInformation, Outcome, Results};
use crate::diameter::base;
use crate::diameter::message::{Builder, Failure, Message};

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ppr {
    pub destination_host: String,
    pub user_name: String,
    pub user_data: Option<Bytes>,
    pub charging_information: Option<ChargingInformation>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ppa {
    pub outcome: Outcome,
}

impl Ppr {
    /// TS 29.229 §6.1.11: reads the AVPs of a PPR.
    pub fn decode(message: &Message) -> Result<Ppr, Failure> {
        let (mut destination_host, mut user_name) = (None, None);
        let mut ppr = Ppr::default();
        for avp in message.avps() {
            if avp.is(base::DESTINATION_HOST) {
                once(&mut destination_host, avp.text()?, &avp)?;
            } else if avp.is(base::USER_NAME) {
                once(&mut user_name, avp.text()?, &avp)?;
            } else if avp.is(avp::USER_DATA) {
                once(&mut ppr.user_data, message.slice(avp.data), &avp)?;
            } else if avp.is(avp::CHARGING_INFORMATION) {
                let charging_information = ChargingInformation::decode(&avp)?;
                once(&mut ppr.charging_information, charging_information, &avp)?;
            } else {
                pass_over(&avp)?;
            }
        }
        ppr.destination_host =
            destination_host.ok_or_else(|| Failure::missing(base::DESTINATION_HOST))?.to_owned();
        ppr.user_name = user_name.ok_or_else(|| Failure::missing(base::USER_NAME))?.to_owned();
        Ok(ppr)
    }

    /// TS 29.229 §6.1.11: the AVPs behind the common ones, of which Destination-Host is one.
    pub fn encode(&self, builder: &mut Builder) {
        builder.text(base::USER_NAME, &self.user_name);
        if let Some(user_data) = &self.user_data {
            builder.octets(avp::USER_DATA, user_data);
        }
        if let Some(charging_information) = &self.charging_information {
            charging_information.encode(builder);
        }
    }
}

impl Ppa {
    /// TS 29.229 §6.1.12: reads a PPA.
    pub fn decode(message: &Message) -> Result<Ppa, Failure> {
        let mut results = Results::default();
        for avp in message.avps() {
            results.take(&avp)?;
        }
        Ok(Ppa { outcome: results.outcome()? })
    }

    /// TS 29.229 §6.1.12: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        self.outcome.encode(builder);
    }
}
