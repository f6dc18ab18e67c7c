//! Base AVP codes, result codes, CER, DWR, DPR (RFC 6733 §4.5, §5, §7).

use std::net::IpAddr;

use bytes::Bytes;

use crate::diameter::message::{
    Avp, Avps, Builder, Definition, FLAG_PROXIABLE, FLAG_REQUEST, Failure, Header, Message,
};

/// Capabilities-Exchange.
pub const COMMAND_CAPABILITIES_EXCHANGE: u32 = 257;
/// Device-Watchdog.
pub const COMMAND_DEVICE_WATCHDOG: u32 = 280;
/// Disconnect-Peer.
pub const COMMAND_DISCONNECT_PEER: u32 = 282;

/// Application-Id of the base protocol itself.
pub const APPLICATION_BASE: u32 = 0;
/// Application-Id of relays, common with every other.
pub const APPLICATION_RELAY: u32 = 0xffff_ffff;

/// Disconnect-Cause (RFC 6733 §5.4.3).
pub const DISCONNECT_REBOOTING: u32 = 0;
pub const DISCONNECT_BUSY: u32 = 1;
pub const DISCONNECT_DO_NOT_WANT_TO_TALK_TO_YOU: u32 = 2;

/// Auth-Session-State: no state is kept, no STR will come (RFC 6733 §8.11).
pub const NO_STATE_MAINTAINED: u32 = 1;

/// Redirect-Host-Usage: for all requests about the user (RFC 6733 §6.13).
pub const REDIRECT_ALL_USER: u32 = 6;

pub mod result_code {
    //! Result-Code values (RFC 6733 §7.1).
    pub const SUCCESS: u32 = 2001;
    pub const LIMITED_SUCCESS: u32 = 2002;
    pub const COMMAND_UNSUPPORTED: u32 = 3001;
    pub const UNABLE_TO_DELIVER: u32 = 3002;
    pub const REALM_NOT_SERVED: u32 = 3003;
    pub const TOO_BUSY: u32 = 3004;
    pub const LOOP_DETECTED: u32 = 3005;
    pub const REDIRECT_INDICATION: u32 = 3006;
    pub const APPLICATION_UNSUPPORTED: u32 = 3007;
    pub const INVALID_HDR_BITS: u32 = 3008;
    pub const INVALID_AVP_BITS: u32 = 3009;
    pub const UNKNOWN_PEER: u32 = 3010;
    pub const AVP_UNSUPPORTED: u32 = 5001;
    pub const AUTHORIZATION_REJECTED: u32 = 5003;
    pub const INVALID_AVP_VALUE: u32 = 5004;
    pub const MISSING_AVP: u32 = 5005;
    pub const RESOURCES_EXCEEDED: u32 = 5006;
    pub const CONTRADICTING_AVPS: u32 = 5007;
    pub const AVP_NOT_ALLOWED: u32 = 5008;
    pub const AVP_OCCURS_TOO_MANY_TIMES: u32 = 5009;
    pub const NO_COMMON_APPLICATION: u32 = 5010;
    pub const UNSUPPORTED_VERSION: u32 = 5011;
    pub const UNABLE_TO_COMPLY: u32 = 5012;
    pub const INVALID_BIT_IN_HEADER: u32 = 5013;
    pub const INVALID_AVP_LENGTH: u32 = 5014;
    pub const INVALID_MESSAGE_LENGTH: u32 = 5015;
    pub const INVALID_AVP_BIT_COMBO: u32 = 5016;
    pub const NO_COMMON_SECURITY: u32 = 5017;

    /// 3xxx: answered with the E bit.
    pub const fn is_protocol_error(code: u32) -> bool {
        code >= 3000 && code < 4000
    }
}

pub const USER_NAME: Definition = Definition::octets(1, 0, true);
pub const PROXY_STATE: Definition = Definition::octets(33, 0, true);
pub const HOST_IP_ADDRESS: Definition =
    Definition { code: 257, vendor: 0, is_mandatory: true, minimum_length: 6 };
pub const AUTH_APPLICATION_ID: Definition = Definition::number(258, 0, true);
pub const ACCT_APPLICATION_ID: Definition = Definition::number(259, 0, true);
pub const VENDOR_SPECIFIC_APPLICATION_ID: Definition = Definition::grouped(260, 0, true);
pub const REDIRECT_HOST_USAGE: Definition = Definition::number(261, 0, true);
pub const REDIRECT_MAX_CACHE_TIME: Definition = Definition::number(262, 0, true);
pub const SESSION_ID: Definition = Definition::octets(263, 0, true);
pub const ORIGIN_HOST: Definition = Definition::octets(264, 0, true);
pub const SUPPORTED_VENDOR_ID: Definition = Definition::number(265, 0, true);
pub const VENDOR_ID: Definition = Definition::number(266, 0, true);
pub const FIRMWARE_REVISION: Definition = Definition::number(267, 0, false);
pub const RESULT_CODE: Definition = Definition::number(268, 0, true);
pub const PRODUCT_NAME: Definition = Definition::octets(269, 0, false);
pub const DISCONNECT_CAUSE: Definition = Definition::number(273, 0, true);
pub const AUTH_SESSION_STATE: Definition = Definition::number(277, 0, true);
pub const ORIGIN_STATE_ID: Definition = Definition::number(278, 0, true);
pub const FAILED_AVP: Definition = Definition::grouped(279, 0, true);
pub const PROXY_HOST: Definition = Definition::octets(280, 0, true);
pub const ERROR_MESSAGE: Definition = Definition::octets(281, 0, false);
pub const ROUTE_RECORD: Definition = Definition::octets(282, 0, true);
pub const DESTINATION_REALM: Definition = Definition::octets(283, 0, true);
pub const PROXY_INFO: Definition = Definition::grouped(284, 0, true);
pub const REDIRECT_HOST: Definition = Definition::octets(292, 0, true);
pub const DESTINATION_HOST: Definition = Definition::octets(293, 0, true);
pub const ERROR_REPORTING_HOST: Definition = Definition::octets(294, 0, false);
pub const ORIGIN_REALM: Definition = Definition::octets(296, 0, true);
pub const EXPERIMENTAL_RESULT: Definition = Definition::grouped(297, 0, true);
pub const EXPERIMENTAL_RESULT_CODE: Definition = Definition::number(298, 0, true);
pub const INBAND_SECURITY_ID: Definition = Definition::number(299, 0, true);
pub const DRMP: Definition = Definition::number(301, 0, false);
pub const OC_SUPPORTED_FEATURES: Definition = Definition::grouped(621, 0, false);
pub const OC_OLR: Definition = Definition::grouped(623, 0, false);
pub const LOAD: Definition = Definition::grouped(650, 0, false);

/// All of the above: an AVP of this list is known, so its M bit is no reason to refuse a request.
pub const DEFINITIONS: &[Definition] = &[
    USER_NAME,
    PROXY_STATE,
    HOST_IP_ADDRESS,
    AUTH_APPLICATION_ID,
    ACCT_APPLICATION_ID,
    VENDOR_SPECIFIC_APPLICATION_ID,
    REDIRECT_HOST_USAGE,
    REDIRECT_MAX_CACHE_TIME,
    SESSION_ID,
    ORIGIN_HOST,
    SUPPORTED_VENDOR_ID,
    VENDOR_ID,
    FIRMWARE_REVISION,
    RESULT_CODE,
    PRODUCT_NAME,
    DISCONNECT_CAUSE,
    AUTH_SESSION_STATE,
    ORIGIN_STATE_ID,
    FAILED_AVP,
    PROXY_HOST,
    ERROR_MESSAGE,
    ROUTE_RECORD,
    DESTINATION_REALM,
    PROXY_INFO,
    REDIRECT_HOST,
    DESTINATION_HOST,
    ERROR_REPORTING_HOST,
    ORIGIN_REALM,
    EXPERIMENTAL_RESULT,
    EXPERIMENTAL_RESULT_CODE,
    INBAND_SECURITY_ID,
    DRMP,
    OC_SUPPORTED_FEATURES,
    OC_OLR,
    LOAD,
];

/// The application that an endpoint speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Application {
    pub id: u32,
    /// Vendor-Id inside Vendor-Specific-Application-Id.
    pub vendor: u32,
    /// Supported-Vendor-Id values of CER and CEA.
    pub supported_vendors: &'static [u32],
    /// Command codes of the application; any other is answered 3001.
    pub commands: &'static [u32],
    /// AVPs that name the user whom a request is about, the more telling first.
    pub user: &'static [Definition],
}

impl Application {
    /// RFC 6733 §6.11: Vendor-Specific-Application-Id as it stands in CER and in every message.
    pub fn write(&self, builder: &mut Builder) {
        builder.group(VENDOR_SPECIFIC_APPLICATION_ID, |group| {
            group.number(VENDOR_ID, self.vendor);
            group.number(AUTH_APPLICATION_ID, self.id);
        });
    }
}

/// What a node says of itself in CER or CEA (RFC 6733 §5.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    pub origin_host: String,
    pub origin_realm: String,
    pub host_ip_addresses: Vec<IpAddr>,
    pub vendor_id: u32,
    pub product_name: String,
    pub origin_state_id: Option<u32>,
    pub supported_vendors: Vec<u32>,
    /// Auth- and Acct-Application-Ids, at the top and inside Vendor-Specific-Application-Id.
    pub applications: Vec<u32>,
    /// Inband-Security-Id values other than 0 (none) alone: the node insists on TLS.
    pub requires_inband_security: bool,
}

impl Capabilities {
    /// RFC 6733 §5.3.1, §5.3.2: reads a CER or a CEA.
    ///
    /// # Errors
    ///
    /// 5005 when Origin-Host, Origin-Realm, Host-IP-Address, Vendor-Id or Product-Name is missing,
    /// 5005 or 5009 when a Vendor-Specific-Application-Id holds no application or several.
    pub fn decode(message: &Message) -> Result<Capabilities, Failure> {
        let mut capabilities = Capabilities::default();
        let (mut host, mut realm, mut vendor, mut product) = (None, None, None, None);
        let mut inband_security: Option<bool> = None;
        for avp in message.avps() {
            if avp.is(ORIGIN_HOST) {
                host = Some(avp.text()?);
            } else if avp.is(ORIGIN_REALM) {
                realm = Some(avp.text()?);
            } else if avp.is(HOST_IP_ADDRESS) {
                capabilities.host_ip_addresses.extend(address(&avp));
            } else if avp.is(VENDOR_ID) {
                vendor = Some(avp.number()?);
            } else if avp.is(PRODUCT_NAME) {
                product = Some(avp.text()?);
            } else if avp.is(ORIGIN_STATE_ID) {
                capabilities.origin_state_id = Some(avp.number()?);
            } else if avp.is(SUPPORTED_VENDOR_ID) {
                capabilities.supported_vendors.push(avp.number()?);
            } else if avp.is(AUTH_APPLICATION_ID) || avp.is(ACCT_APPLICATION_ID) {
                capabilities.applications.push(avp.number()?);
            } else if avp.is(INBAND_SECURITY_ID) {
                let is_none = avp.number()? == 0;
                inband_security = Some(inband_security.unwrap_or(false) || is_none);
            } else if avp.is(VENDOR_SPECIFIC_APPLICATION_ID) {
                capabilities.applications.push(vendor_specific(&avp)?);
            }
        }
        capabilities.origin_host = host.ok_or(Failure::missing(ORIGIN_HOST))?.to_owned();
        capabilities.origin_realm = realm.ok_or(Failure::missing(ORIGIN_REALM))?.to_owned();
        capabilities.vendor_id = vendor.ok_or(Failure::missing(VENDOR_ID))?;
        capabilities.product_name = product.ok_or(Failure::missing(PRODUCT_NAME))?.to_owned();
        capabilities.requires_inband_security = inband_security == Some(false);
        if message.find(HOST_IP_ADDRESS).is_none() {
            return Err(Failure::missing(HOST_IP_ADDRESS));
        }
        Ok(capabilities)
    }

    /// RFC 6733 §5.3.1, §5.3.2: the AVPs of a CER, or of a CEA behind its Result-Code.
    pub fn encode(&self, application: &Application, builder: &mut Builder) {
        builder.text(ORIGIN_HOST, &self.origin_host);
        builder.text(ORIGIN_REALM, &self.origin_realm);
        for address in &self.host_ip_addresses {
            builder.octets(HOST_IP_ADDRESS, &address_octets(*address));
        }
        builder.number(VENDOR_ID, self.vendor_id);
        builder.text(PRODUCT_NAME, &self.product_name);
        if let Some(origin_state_id) = self.origin_state_id {
            builder.number(ORIGIN_STATE_ID, origin_state_id);
        }
        for vendor in application.supported_vendors {
            builder.number(SUPPORTED_VENDOR_ID, *vendor);
        }
        application.write(builder);
    }

    /// RFC 6733 §5.3: the node speaks that application, or relays all of them.
    pub fn supports(&self, application: u32) -> bool {
        self.applications.contains(&application) || self.is_relay()
    }

    pub fn is_relay(&self) -> bool {
        self.applications.contains(&APPLICATION_RELAY)
    }
}

/// Header of a request of the base protocol: not proxiable.
pub fn request_header(command: u32, hop_by_hop: u32, end_to_end: u32) -> Header {
    Header { flags: FLAG_REQUEST, command, application: APPLICATION_BASE, hop_by_hop, end_to_end }
}

/// Header of a request of an application: proxiable.
pub fn application_header(command: u32, application: u32, end_to_end: u32) -> Header {
    Header { flags: FLAG_REQUEST | FLAG_PROXIABLE, command, application, hop_by_hop: 0, end_to_end }
}

/// What an answer copies from its request, encoded: Session-Id and every Proxy-Info.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Echoed {
    pub session_id: Vec<u8>,
    pub proxy_info: Vec<u8>,
}

impl Echoed {
    /// RFC 6733 §6.2: takes what it can find, also from a message that failed to decode.
    pub fn of(bytes: &[u8]) -> Echoed {
        let mut echoed = Echoed::default();
        for avp in Avps::lenient(bytes) {
            if avp.is(SESSION_ID) && echoed.session_id.is_empty() {
                avp.write(&mut echoed.session_id);
            } else if avp.is(PROXY_INFO) {
                avp.write(&mut echoed.proxy_info);
            }
        }
        echoed
    }
}

/// RFC 6733 §7.2: an answer that reports a failure. `fill` writes what the application wants to
/// have in it besides.
pub fn failure_answer(
    request: &Header,
    echoed: &Echoed,
    origin: (&str, &str),
    failure: &Failure,
    fill: impl FnOnce(&mut Builder),
) -> Bytes {
    let is_protocol_error = result_code::is_protocol_error(failure.result_code);
    let mut builder = Builder::new(request.answer(is_protocol_error));
    builder.raw(&echoed.session_id);
    builder.number(RESULT_CODE, failure.result_code);
    builder.text(ORIGIN_HOST, origin.0);
    builder.text(ORIGIN_REALM, origin.1);
    fill(&mut builder);
    if !failure.message.is_empty() {
        builder.text(ERROR_MESSAGE, &failure.message);
    }
    if let Some(failed) = &failure.failed_avp {
        builder.group(FAILED_AVP, |group| group.raw(failed));
    }
    builder.raw(&echoed.proxy_info);
    builder.finish()
}

/// RFC 6733 §6.11: the one application that the group names.
fn vendor_specific(group: &Avp<'_>) -> Result<u32, Failure> {
    let mut applications =
        group.group()?.filter(|avp| avp.is(AUTH_APPLICATION_ID) || avp.is(ACCT_APPLICATION_ID));
    match (applications.next(), applications.next()) {
        (Some(application), None) => application.number(),
        (None, _) => Err(Failure::missing(AUTH_APPLICATION_ID)),
        (Some(_), Some(_)) => Err(Failure::at(
            result_code::AVP_OCCURS_TOO_MANY_TIMES,
            group,
            "more than one of Auth- and Acct-Application-Id",
        )),
    }
}

/// RFC 6733 §4.3.1: Address; families other than IP are skipped.
fn address(avp: &Avp<'_>) -> Option<IpAddr> {
    match avp.data {
        [0, 1, octets @ ..] => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        [0, 2, octets @ ..] => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

fn address_octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => [&[0, 1], &address.octets()[..]].concat(),
        IpAddr::V6(address) => [&[0, 2], &address.octets()[..]].concat(),
    }
}
