//! The AVP table (TS 29.229 §6.3) and the checks that all messages of the application share.

use crate::diameter::base::{self, result_code};
use crate::diameter::message::{Avp, Builder, Definition, Failure};

/// Vendor-Id of 3GPP.
pub const VENDOR_3GPP: u32 = 10415;
/// Vendor-Id of ETSI, for Line-Identifier.
pub const VENDOR_ETSI: u32 = 13019;

const fn octets(code: u32) -> Definition {
    Definition::octets(code, VENDOR_3GPP, true)
}
const fn number(code: u32) -> Definition {
    Definition::number(code, VENDOR_3GPP, true)
}
const fn group(code: u32) -> Definition {
    Definition::grouped(code, VENDOR_3GPP, true)
}
/// With a clear M bit: whoever does not know the AVP may pass over it.
const fn optional_octets(code: u32) -> Definition {
    Definition::octets(code, VENDOR_3GPP, false)
}
const fn optional_number(code: u32) -> Definition {
    Definition::number(code, VENDOR_3GPP, false)
}
const fn optional_group(code: u32) -> Definition {
    Definition::grouped(code, VENDOR_3GPP, false)
}

pub const VISITED_NETWORK_IDENTIFIER: Definition = octets(600);
pub const PUBLIC_IDENTITY: Definition = octets(601);
pub const SERVER_NAME: Definition = octets(602);
pub const SERVER_CAPABILITIES: Definition = group(603);
pub const MANDATORY_CAPABILITY: Definition = number(604);
pub const OPTIONAL_CAPABILITY: Definition = number(605);
pub const USER_DATA: Definition = octets(606);
pub const SIP_NUMBER_AUTH_ITEMS: Definition = number(607);
pub const SIP_AUTHENTICATION_SCHEME: Definition = octets(608);
pub const SIP_AUTHENTICATE: Definition = octets(609);
pub const SIP_AUTHORIZATION: Definition = octets(610);
pub const SIP_AUTHENTICATION_CONTEXT: Definition = octets(611);
pub const SIP_AUTH_DATA_ITEM: Definition = group(612);
pub const SIP_ITEM_NUMBER: Definition = number(613);
pub const SERVER_ASSIGNMENT_TYPE: Definition = number(614);
pub const DEREGISTRATION_REASON: Definition = group(615);
pub const REASON_CODE: Definition = number(616);
pub const REASON_INFO: Definition = octets(617);
pub const CHARGING_INFORMATION: Definition = group(618);
pub const PRIMARY_EVENT_CHARGING_FUNCTION_NAME: Definition = octets(619);
pub const SECONDARY_EVENT_CHARGING_FUNCTION_NAME: Definition = octets(620);
pub const PRIMARY_CHARGING_COLLECTION_FUNCTION_NAME: Definition = octets(621);
pub const SECONDARY_CHARGING_COLLECTION_FUNCTION_NAME: Definition = octets(622);
pub const USER_AUTHORIZATION_TYPE: Definition = number(623);
pub const USER_DATA_ALREADY_AVAILABLE: Definition = number(624);
pub const CONFIDENTIALITY_KEY: Definition = octets(625);
pub const INTEGRITY_KEY: Definition = octets(626);
pub const SUPPORTED_FEATURES: Definition = optional_group(628);
pub const FEATURE_LIST_ID: Definition = optional_number(629);
pub const FEATURE_LIST: Definition = optional_number(630);
pub const SUPPORTED_APPLICATIONS: Definition = optional_group(631);
pub const ASSOCIATED_IDENTITIES: Definition = optional_group(632);
pub const ORIGINATING_REQUEST: Definition = number(633);
pub const WILDCARDED_PUBLIC_IDENTITY: Definition = optional_octets(634);
pub const SIP_DIGEST_AUTHENTICATE: Definition = optional_group(635);
pub const WILDCARDED_IMPU: Definition = optional_octets(636);
pub const UAR_FLAGS: Definition = optional_number(637);
pub const LOOSE_ROUTE_INDICATION: Definition = optional_number(638);
pub const SCSCF_RESTORATION_INFO: Definition = optional_group(639);
pub const PATH: Definition = optional_octets(640);
pub const CONTACT: Definition = optional_octets(641);
pub const SUBSCRIPTION_INFO: Definition = optional_group(642);
pub const CALL_ID_SIP_HEADER: Definition = optional_octets(643);
pub const FROM_SIP_HEADER: Definition = optional_octets(644);
pub const TO_SIP_HEADER: Definition = optional_octets(645);
pub const RECORD_ROUTE: Definition = optional_octets(646);
pub const ASSOCIATED_REGISTERED_IDENTITIES: Definition = optional_group(647);
pub const MULTIPLE_REGISTRATION_INDICATION: Definition = optional_number(648);
pub const RESTORATION_INFO: Definition = optional_group(649);
pub const SESSION_PRIORITY: Definition = optional_number(650);
pub const IDENTITY_WITH_EMERGENCY_REGISTRATION: Definition = optional_group(651);
pub const PRIVILEDGED_SENDER_INDICATION: Definition = optional_number(652);
pub const LIA_FLAGS: Definition = optional_number(653);
pub const INITIAL_CSEQ_SEQUENCE_NUMBER: Definition = optional_number(654);
pub const SAR_FLAGS: Definition = optional_number(655);
pub const ALLOWED_WAF_WWSF_IDENTITIES: Definition = optional_group(656);
pub const RTR_FLAGS: Definition = optional_number(659);
pub const PCSCF_SUBSCRIPTION_INFO: Definition = optional_group(660);
/// Of type Time: seconds since 1900.
pub const REGISTRATION_TIME_OUT: Definition = optional_number(661);
/// Of RFC 4590, inside SIP-Digest-Authenticate.
pub const DIGEST_REALM: Definition = Definition::octets(104, 0, true);
pub const DIGEST_QOP: Definition = Definition::octets(110, 0, true);
pub const DIGEST_ALGORITHM: Definition = Definition::octets(111, 0, false);
pub const DIGEST_HA1: Definition = Definition::octets(121, 0, true);
/// Of RFC 4005, inside SIP-Auth-Data-Item.
pub const FRAMED_IP_ADDRESS: Definition = Definition::octets(8, 0, true);
pub const FRAMED_IPV6_PREFIX: Definition = Definition::octets(97, 0, true);
pub const LINE_IDENTIFIER: Definition = Definition::octets(500, VENDOR_ETSI, false);

/// UAR-Flags bit 0: IMS emergency registration.
pub const UAR_FLAG_EMERGENCY: u32 = 1;

/// LIA-Flags bit 0: the Server-Name is that of a public service identity's application server.
pub const LIA_FLAG_PSI_DIRECT_ROUTING: u32 = 1;
/// SAR-Flags bit 0: the P-CSCF is out of service and the UE shall register anew.
pub const SAR_FLAG_PCSCF_RESTORATION: u32 = 1;

/// Feature-List of list 1, bit 2: IMS restoration (TS 29.229 §7.1.1, TS 23.380).
pub const FEATURE_RESTORATION: u32 = 1 << 2;

/// Feature-List of list 1 that this implementation supports.
pub const SUPPORTED_FEATURE_LIST: u32 = FEATURE_RESTORATION;

/// True for AVPs that a message of the application may carry: all of TS 29.229 §6.3 (codes 600
/// to 661 of 3GPP, without the holes), Line-Identifier, and those of the base protocol.
pub fn is_known(avp: &Avp<'_>) -> bool {
    match avp.vendor {
        VENDOR_3GPP => matches!(avp.code, 600..=626 | 628..=661),
        VENDOR_ETSI => avp.is(LINE_IDENTIFIER),
        0 => base::DEFINITIONS.iter().any(|known| avp.is(*known)),
        _ => false,
    }
}

/// RFC 6733 §4.1, §7.1.5: an AVP that the reader of a request does not look at: known ones and
/// those without M are passed over.
///
/// # Errors
///
/// 5001 with the AVP in Failed-AVP.
pub fn pass_over(avp: &Avp<'_>) -> Result<(), Failure> {
    if avp.is_mandatory() && !is_known(avp) {
        return Err(Failure::at(result_code::AVP_UNSUPPORTED, avp, "unknown and mandatory"));
    }
    Ok(())
}

/// RFC 6733 §7.1.5: fills the place of an AVP that may occur once.
///
/// # Errors
///
/// 5009 with the second occurrence in Failed-AVP.
pub fn once<T>(place: &mut Option<T>, value: T, avp: &Avp<'_>) -> Result<(), Failure> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => {
            Err(Failure::at(result_code::AVP_OCCURS_TOO_MANY_TIMES, avp, "occurs more than once"))
        }
    }
}

/// RFC 6733 §7.1.5: 5004 for a value that the AVP cannot have.
pub fn invalid(avp: &Avp<'_>) -> Failure {
    Failure::at(result_code::INVALID_AVP_VALUE, avp, "no such value")
}

/// Writes an AVP whose value may be absent.
pub fn optional_text(builder: &mut Builder, definition: Definition, text: Option<&str>) {
    if let Some(text) = text {
        builder.text(definition, text);
    }
}

/// TS 29.229 §6.3.33: Associated-Identities; left out when empty.
pub fn write_user_names(builder: &mut Builder, definition: Definition, names: &[String]) {
    if !names.is_empty() {
        builder.group(definition, |group| {
            for name in names {
                group.text(base::USER_NAME, name);
            }
        });
    }
}

/// TS 29.229 §6.3.33: the User-Names of a group.
pub fn user_names(avp: &Avp<'_>) -> Result<Vec<String>, Failure> {
    avp.group()?
        .filter(|avp| avp.is(base::USER_NAME))
        .map(|avp| avp.text().map(str::to_owned))
        .collect()
}
