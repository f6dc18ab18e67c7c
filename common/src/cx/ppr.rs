//! Push-Profile-Request and -Answer (TS 29.229 §6.1.11, §6.1.12).

use bytes::Bytes;

use crate::cx::avp::{self, once, pass_over};
use crate::cx::{ChargingInformation, Outcome, Results};
use crate::diameter::base;
use crate::diameter::message::{Builder, Definition, Failure, Message};

/// TS 29.228 §6.2.2: one of these at least is in a PPR; one with none of them would be answered as if it had
/// changed something.
const NEWS: [Definition; 4] = [
    avp::USER_DATA,
    avp::CHARGING_INFORMATION,
    avp::SIP_AUTH_DATA_ITEM,
    avp::ALLOWED_WAF_WWSF_IDENTITIES,
];

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
    ///
    /// # Errors
    ///
    /// 5005 with User-Data in Failed-AVP when there is nothing that could be new (RFC 6733 §7.1.5).
    pub fn decode(message: &Message) -> Result<Ppr, Failure> {
        let (mut destination_host, mut user_name) = (None, None);
        let mut ppr = Ppr::default();
        let mut has_news = false;
        for avp in message.avps() {
            has_news |= NEWS.iter().any(|news| avp.is(*news));
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
        if !has_news {
            return Err(Failure::missing(avp::USER_DATA));
        }
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
