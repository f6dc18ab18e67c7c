//! S-CSCF restoration information (TS 29.229 §6.3.46, §6.3.52, TS 23.380 §4): what an S-CSCF leaves
//! with the HSS, so that another one can serve its registrations.

use serde::{Deserialize, Serialize};

use crate::cx::avp;
use crate::diameter::base;
use crate::diameter::message::{Avp, Builder, Definition, Failure};

/// Seconds between the epoch of NTP, which AVPs of type Time count from, and that of Unix
/// (RFC 6733 §4.3.1).
const NTP_TO_UNIX_SECONDS: u64 = 2_208_988_800;

/// SCSCF-Restoration-Info (TS 29.229 §6.3.46): the registration of one private identity.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScscfRestorationInfo {
    pub user_name: String,
    /// One or more.
    pub contacts: Vec<RestorationInfo>,
    /// Registration-Time-Out: when the last of the contacts expires, in seconds since the Unix
    /// epoch (TS 29.229 §6.3.64).
    pub registration_time_out: Option<u64>,
    /// SIP-Authentication-Scheme.
    pub scheme: Option<String>,
}

/// Restoration-Info (TS 29.229 §6.3.52): one contact address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RestorationInfo {
    /// Values of the Path header, in order, with commas between them.
    pub path: String,
    /// The Contact with its parameters.
    pub contact: String,
    /// Initial-CSeq-Sequence-Number: of the REGISTER that made the contact.
    pub cseq: Option<u32>,
    /// Call-ID of that REGISTER.
    pub call_id: Option<String>,
    /// The UE's own subscription to the registration state.
    pub subscription: Option<SubscriptionInfo>,
    /// The P-CSCF's.
    pub pcscf_subscription: Option<SubscriptionInfo>,
}

/// Subscription-Info and P-CSCF-Subscription-Info (TS 29.229 §6.3.49, §6.3.63): values of headers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SubscriptionInfo {
    pub call_id: String,
    pub from: String,
    pub to: String,
    /// Not part of a P-CSCF's.
    pub record_route: Option<String>,
    pub contact: String,
}

impl ScscfRestorationInfo {
    /// TS 29.229 §6.3.46
    ///
    /// # Errors
    ///
    /// 5005 without a User-Name or a contact, and as for all AVPs.
    pub fn decode(group: &Avp<'_>) -> Result<ScscfRestorationInfo, Failure> {
        let mut user_name = None;
        let mut info = ScscfRestorationInfo::default();
        for avp in group.group()? {
            if avp.is(base::USER_NAME) {
                user_name = Some(avp.text()?.to_owned());
            } else if avp.is(avp::RESTORATION_INFO) {
                info.contacts.push(RestorationInfo::decode(&avp)?);
            } else if avp.is(avp::REGISTRATION_TIME_OUT) {
                let seconds = u64::from(avp.number()?);
                info.registration_time_out = Some(seconds.saturating_sub(NTP_TO_UNIX_SECONDS));
            } else if avp.is(avp::SIP_AUTHENTICATION_SCHEME) {
                info.scheme = Some(avp.text()?.to_owned());
            }
        }
        info.user_name = user_name.ok_or_else(|| Failure::missing(base::USER_NAME))?;
        if info.contacts.is_empty() {
            return Err(Failure::missing(avp::RESTORATION_INFO));
        }
        Ok(info)
    }

    pub fn encode(&self, builder: &mut Builder) {
        builder.group(avp::SCSCF_RESTORATION_INFO, |group| {
            group.text(base::USER_NAME, &self.user_name);
            for contact in &self.contacts {
                contact.encode(group);
            }
            if let Some(seconds) = self.registration_time_out {
                // Until the seconds of NTP wrap around, in 2036.
                let seconds = seconds.saturating_add(NTP_TO_UNIX_SECONDS);
                group
                    .number(avp::REGISTRATION_TIME_OUT, u32::try_from(seconds).unwrap_or(u32::MAX));
            }
            avp::optional_text(group, avp::SIP_AUTHENTICATION_SCHEME, self.scheme.as_deref());
        });
    }
}

impl RestorationInfo {
    fn decode(group: &Avp<'_>) -> Result<RestorationInfo, Failure> {
        let (mut path, mut contact) = (None, None);
        let mut info = RestorationInfo::default();
        for avp in group.group()? {
            if avp.is(avp::PATH) {
                path = Some(avp.text()?.to_owned());
            } else if avp.is(avp::CONTACT) {
                contact = Some(avp.text()?.to_owned());
            } else if avp.is(avp::INITIAL_CSEQ_SEQUENCE_NUMBER) {
                info.cseq = Some(avp.number()?);
            } else if avp.is(avp::CALL_ID_SIP_HEADER) {
                info.call_id = Some(avp.text()?.to_owned());
            } else if avp.is(avp::SUBSCRIPTION_INFO) {
                info.subscription = Some(SubscriptionInfo::decode(&avp)?);
            } else if avp.is(avp::PCSCF_SUBSCRIPTION_INFO) {
                info.pcscf_subscription = Some(SubscriptionInfo::decode(&avp)?);
            }
        }
        info.path = path.ok_or_else(|| Failure::missing(avp::PATH))?;
        info.contact = contact.ok_or_else(|| Failure::missing(avp::CONTACT))?;
        Ok(info)
    }

    fn encode(&self, builder: &mut Builder) {
        builder.group(avp::RESTORATION_INFO, |group| {
            group.text(avp::PATH, &self.path);
            group.text(avp::CONTACT, &self.contact);
            if let Some(cseq) = self.cseq {
                group.number(avp::INITIAL_CSEQ_SEQUENCE_NUMBER, cseq);
            }
            avp::optional_text(group, avp::CALL_ID_SIP_HEADER, self.call_id.as_deref());
            if let Some(subscription) = &self.subscription {
                subscription.encode(avp::SUBSCRIPTION_INFO, group);
            }
            if let Some(subscription) = &self.pcscf_subscription {
                subscription.encode(avp::PCSCF_SUBSCRIPTION_INFO, group);
            }
        });
    }
}

impl SubscriptionInfo {
    fn decode(group: &Avp<'_>) -> Result<SubscriptionInfo, Failure> {
        let mut info = SubscriptionInfo::default();
        for avp in group.group()? {
            let place = if avp.is(avp::CALL_ID_SIP_HEADER) {
                &mut info.call_id
            } else if avp.is(avp::FROM_SIP_HEADER) {
                &mut info.from
            } else if avp.is(avp::TO_SIP_HEADER) {
                &mut info.to
            } else if avp.is(avp::CONTACT) {
                &mut info.contact
            } else if avp.is(avp::RECORD_ROUTE) {
                info.record_route.insert(String::new())
            } else {
                continue;
            };
            *place = avp.text()?.to_owned();
        }
        let needed = [
            (&info.call_id, avp::CALL_ID_SIP_HEADER),
            (&info.from, avp::FROM_SIP_HEADER),
            (&info.to, avp::TO_SIP_HEADER),
            (&info.contact, avp::CONTACT),
        ];
        for (value, definition) in needed {
            if value.is_empty() {
                return Err(Failure::missing(definition));
            }
        }
        Ok(info)
    }

    fn encode(&self, definition: Definition, builder: &mut Builder) {
        builder.group(definition, |group| {
            group.text(avp::CALL_ID_SIP_HEADER, &self.call_id);
            group.text(avp::FROM_SIP_HEADER, &self.from);
            group.text(avp::TO_SIP_HEADER, &self.to);
            avp::optional_text(group, avp::RECORD_ROUTE, self.record_route.as_deref());
            group.text(avp::CONTACT, &self.contact);
        });
    }
}
