//! Headers that a P-CSCF takes off, because the UE has no say in them or must not see them
//! (TS 24.229 §5.2.2.1, §5.2.2.2; TS 24.229 §4.5 for charging).

use common::sip::header::Name;
use common::sip::message::Headers;

/// From the UE: only the network may say these.
pub fn strip_from_ue(headers: &mut Headers) {
    for name in [
        Name::PChargingVector,
        Name::PChargingFunctionAddresses,
        Name::PAssertedIdentity,
        Name::PVisitedNetworkId,
        Name::Path,
        Name::ServiceRoute,
        Name::PAssociatedUri,
    ] {
        headers.remove(name);
    }
    strip_network_provided(headers);
}

/// Towards the UE: charging stays inside.
pub fn strip_towards_ue(headers: &mut Headers) {
    headers.remove(Name::PChargingVector);
    headers.remove(Name::PChargingFunctionAddresses);
}

/// A UE cannot speak for the network: `network-provided` entries of P-Access-Network-Info go
/// (TS 24.229 §7.2A.4.3).
fn strip_network_provided(headers: &mut Headers) {
    if !headers.has(Name::PAccessNetworkInfo) {
        return;
    }
    let is_network_provided = |value: &str| {
        value.split(';').skip(1).any(|part| part.trim().eq_ignore_ascii_case("network-provided"))
    };
    let values: Vec<String> = headers.values(Name::PAccessNetworkInfo).map(str::to_owned).collect();
    if values.iter().any(|value| is_network_provided(value)) {
        headers.remove(Name::PAccessNetworkInfo);
        for value in values.iter().filter(|value| !is_network_provided(value)) {
            headers.append(Name::PAccessNetworkInfo, value);
        }
    }
}
