//! The service profile: reading, writing, and documents that are none (TS 29.228 §B, §E).

use common::cx::user_data::{
    Condition, InitialFilterCriterion, PublicIdentity, ServicePointTrigger, ServiceProfile,
    TriggerPoint, UserData,
};
use proptest::prelude::*;

/// All elements that the schema of release 8 has, and some of later ones.
const DOCUMENT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment -->
<IMSSubscription xmlns:x="urn:example">
  <PrivateID>name.private@hims.net</PrivateID>
  <ServiceProfile>
    <PublicIdentity>
      <BarringIndication>true</BarringIndication>
      <Identity>sip:barred@hims.net</Identity>
    </PublicIdentity>
    <PublicIdentity>
      <Identity> sip:name@hims.net </Identity>
      <Extension>
        <IdentityType>0</IdentityType>
        <Extension>
          <DisplayName>Ana &amp; B&#111;b</DisplayName>
          <AliasIdentityGroupID>g1</AliasIdentityGroupID>
          <Extension>
            <ServiceLevelTraceInfo><x:any>1</x:any></ServiceLevelTraceInfo>
            <Extension><MaxNumOfAllowedSimultRegistrations>2</MaxNumOfAllowedSimultRegistrations></Extension>
          </Extension>
        </Extension>
      </Extension>
    </PublicIdentity>
    <PublicIdentity>
      <Identity>sip:chat-*@hims.net</Identity>
      <Extension><IdentityType>2</IdentityType><WildcardedPSI>sip:chat-!.*!@hims.net</WildcardedPSI></Extension>
    </PublicIdentity>
    <PublicIdentity>
      <Identity>sip:pbx1@hims.net</Identity>
      <Extension>
        <IdentityType>4</IdentityType>
        <Extension><Extension><WildcardedIMPU>sip:pbx!.*!@hims.net</WildcardedIMPU></Extension></Extension>
      </Extension>
    </PublicIdentity>
    <CoreNetworkServicesAuthorization>
      <SubscribedMediaProfileId>3</SubscribedMediaProfileId>
      <Extension><ListOfServiceIds><ServiceId>s1</ServiceId></ListOfServiceIds></Extension>
    </CoreNetworkServicesAuthorization>
    <InitialFilterCriteria>
      <Priority>5</Priority>
      <TriggerPoint>
        <ConditionTypeCNF>0</ConditionTypeCNF>
        <SPT>
          <ConditionNegated>0</ConditionNegated>
          <Group>0</Group>
          <Group>1</Group>
          <Method>REGISTER</Method>
          <Extension><RegistrationType>0</RegistrationType><RegistrationType>2</RegistrationType></Extension>
        </SPT>
        <SPT><Group>1</Group><SessionCase>3</SessionCase></SPT>
        <SPT>
          <ConditionNegated>1</ConditionNegated>
          <Group>2</Group>
          <SIPHeader><Header>Accept-Contact</Header><Content><![CDATA[.*<mmtel>.*]]></Content></SIPHeader>
        </SPT>
        <SPT><Group>2</Group><SIPHeader><Header>Event</Header></SIPHeader></SPT>
        <SPT><Group>2</Group><RequestURI>^sip:.*hims\.net$</RequestURI></SPT>
        <SPT><Group>2</Group><SessionDescription><Line>m</Line><Content>video</Content></SessionDescription></SPT>
      </TriggerPoint>
      <ApplicationServer>
        <ServerName>sip:mmtel.hims.net;transport=tcp</ServerName>
        <DefaultHandling>1</DefaultHandling>
        <ServiceInfo>&lt;opaque/&gt;</ServiceInfo>
        <Extension><IncludeRegisterRequest/><IncludeRegisterResponse></IncludeRegisterResponse></Extension>
      </ApplicationServer>
      <ProfilePartIndicator>0</ProfilePartIndicator>
      <Extension><x:new/></Extension>
    </InitialFilterCriteria>
    <InitialFilterCriteria>
      <Priority>7</Priority>
      <ApplicationServer><ServerName>sip:as2.hims.net</ServerName></ApplicationServer>
      <ProfilePartIndicator>1</ProfilePartIndicator>
    </InitialFilterCriteria>
    <x:Extra><Identity>sip:not@this.one</Identity></x:Extra>
    <Extension><SharedIFCSetID>7</SharedIFCSetID><SharedIFCSetID>8</SharedIFCSetID></Extension>
  </ServiceProfile>
  <Extension><IMSI>001010123456789</IMSI></Extension>
</IMSSubscription>
"#;

fn identity(identity: &str) -> PublicIdentity {
    PublicIdentity { identity: identity.into(), ..PublicIdentity::default() }
}

fn trigger(is_negated: bool, groups: &[u32], condition: Condition) -> ServicePointTrigger {
    let groups = groups.to_vec();
    ServicePointTrigger { is_negated, groups, condition, registration_types: Vec::new() }
}

fn expected() -> UserData {
    let header = |header: &str, content: Option<&str>| Condition::SipHeader {
        header: header.into(),
        content: content.map(str::to_owned),
    };
    let video = Condition::SessionDescription { line: "m".into(), content: Some("video".into()) };
    let service_point_triggers = vec![
        ServicePointTrigger {
            registration_types: vec![0, 2],
            ..trigger(false, &[0, 1], Condition::Method("REGISTER".into()))
        },
        trigger(false, &[1], Condition::SessionCase(3)),
        trigger(true, &[2], header("Accept-Contact", Some(".*<mmtel>.*"))),
        trigger(false, &[2], header("Event", None)),
        trigger(false, &[2], Condition::RequestUri(r"^sip:.*hims\.net$".into())),
        trigger(false, &[2], video),
    ];
    UserData {
        private_identity: "name.private@hims.net".into(),
        service_profiles: vec![ServiceProfile {
            public_identities: vec![
                PublicIdentity { is_barred: true, ..identity("sip:barred@hims.net") },
                PublicIdentity {
                    display_name: Some("Ana & Bob".into()),
                    alias_identity_group_id: Some("g1".into()),
                    ..identity("sip:name@hims.net")
                },
                PublicIdentity {
                    identity_type: 2,
                    wildcarded_identity: Some("sip:chat-!.*!@hims.net".into()),
                    ..identity("sip:chat-*@hims.net")
                },
                PublicIdentity {
                    identity_type: 4,
                    wildcarded_identity: Some("sip:pbx!.*!@hims.net".into()),
                    ..identity("sip:pbx1@hims.net")
                },
            ],
            subscribed_media_profile_id: Some(3),
            initial_filter_criteria: vec![
                InitialFilterCriterion {
                    priority: 5,
                    trigger_point: Some(TriggerPoint { is_cnf: false, service_point_triggers }),
                    server_name: "sip:mmtel.hims.net;transport=tcp".into(),
                    default_handling_terminated: true,
                    service_info: Some("<opaque/>".into()),
                    registered_part: Some(true),
                    include_register_request: true,
                    include_register_response: true,
                },
                InitialFilterCriterion {
                    priority: 7,
                    server_name: "sip:as2.hims.net".into(),
                    registered_part: Some(false),
                    ..InitialFilterCriterion::default()
                },
            ],
            shared_ifc_set_ids: vec![7, 8],
        }],
    }
}

/// TS 29.228 §E: every element in its place, the unknown ones passed over; S-95.
#[test]
fn reads_a_profile() {
    let user_data = UserData::parse(DOCUMENT.as_bytes()).unwrap();
    assert_eq!(user_data, expected());
    let identities: Vec<_> =
        user_data.public_identities().map(|identity| identity.identity.as_str()).collect();
    assert_eq!(identities.len(), 4);
}

/// TS 29.228 §E: what is written reads back the same, and the elements come in the schema's order.
#[test]
fn writes_in_the_order_of_the_schema() {
    let xml = expected().to_xml();
    assert_eq!(UserData::parse(xml.as_bytes()).unwrap(), expected());
    let place = |what: &str| xml.find(what).unwrap_or_else(|| panic!("{what} in {xml}"));
    for order in [
        &["<PrivateID>", "<ServiceProfile>", "<PublicIdentity>"][..],
        &["</PublicIdentity>", "<CoreNetworkServicesAuthorization>", "<InitialFilterCriteria>"],
        &["<BarringIndication>1<", "<Identity>sip:barred@hims.net<"],
        &["<Priority>5", "<TriggerPoint>", "<ApplicationServer>", "<ProfilePartIndicator>0"],
        &[
            "<ConditionTypeCNF>0",
            "<SPT>",
            "<ConditionNegated>0",
            "<Group>0",
            "<Method>",
            "<Registra",
        ],
        &["<ServerName>", "<DefaultHandling>1", "<ServiceInfo>&lt;", "<IncludeRegisterRequest/>"],
        &["<DisplayName>Ana &amp; Bob<", "<AliasIdentityGroupID>", "<WildcardedIMPU>"],
        &["<IdentityType>2<", "<WildcardedPSI>"],
        &["</InitialFilterCriteria>", "<SharedIFCSetID>7<", "<SharedIFCSetID>8<"],
    ] {
        let places: Vec<usize> = order.iter().map(|what| place(what)).collect();
        assert!(places.is_sorted(), "{order:?} at {places:?} in {xml}");
    }
}

/// TS 29.228 §E: what the schema requires is required; and what would be dangerous is refused.
#[test]
fn refuses_what_is_no_profile() {
    let reasons = |xml: &str| UserData::parse(xml.as_bytes()).unwrap_err().0;
    let without = |what: &str| {
        let xml = DOCUMENT.replacen(what, "", 1);
        assert_ne!(xml, DOCUMENT, "{what}");
        reasons(&xml)
    };
    assert_eq!(without("<PrivateID>name.private@hims.net</PrivateID>"), "no PrivateID");
    assert!(without("<Identity>sip:barred@hims.net</Identity>").contains("Identity"));
    assert!(without("<Priority>7</Priority>").contains("Priority"));
    assert!(without("<ServerName>sip:as2.hims.net</ServerName>").contains("ServerName"));
    assert!(without("<SessionCase>3</SessionCase>").contains("condition"));
    assert!(without("<ConditionTypeCNF>0</ConditionTypeCNF>").contains("ConditionTypeCNF"));
    assert!(without("</IMSSubscription>").contains("ends"));
    let with = |what: &str, by: &str| {
        let xml = DOCUMENT.replacen(what, by, 1);
        assert_ne!(xml, DOCUMENT, "{what}");
        reasons(&xml)
    };
    assert!(with(">true<", ">maybe<").contains("BarringIndication"));
    assert!(with("<Priority>5<", "<Priority>-5<").contains("Priority"));
    assert!(with("<SessionCase>3<", "<SessionCase>9<").contains("SessionCase"));
    assert!(with("&amp;", "&evil;").contains("evil"));
    assert!(
        with("<!-- a comment -->", "<!DOCTYPE x [<!ENTITY e \"e\">]>").contains("document type")
    );
    assert!(reasons("").contains("no IMSSubscription"));
    assert!(reasons("<Sh-Data/>").contains("Sh-Data"));
    let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
    let deep = format!("<IMSSubscription>{deep}</IMSSubscription>");
    assert!(UserData::parse(deep.as_bytes()).is_err());
    let deep = format!("{}{}", "<Extension>".repeat(9_000), "</Extension>".repeat(9_000));
    assert!(with("<Extension>", &format!("{deep}<Extension>")).contains("deep"));
    assert!(UserData::parse(&[0xff, 0xfe]).is_err());
}

proptest! {
    /// A document with octets changed, cut off or doubled never panics.
    #[test]
    fn survives_mutation(
        at in any::<prop::sample::Index>(),
        length in 0..40usize,
        by in "[<>/&;a-zA-Z0-9\"!\\[\\]-]{0,12}",
    ) {
        let at = at.index(DOCUMENT.len());
        let end = (at + length).min(DOCUMENT.len());
        let mut bytes = DOCUMENT.as_bytes().to_vec();
        bytes.splice(at..end, by.bytes());
        let _ = UserData::parse(&bytes);
        let _ = UserData::parse(&bytes[..at]);
    }

    /// Any text survives being written and read.
    #[test]
    fn escapes(text in "[ -~äß€<>&\"']{1,20}") {
        let text = text.trim().to_owned();
        prop_assume!(!text.is_empty());
        let mut user_data = expected();
        user_data.private_identity = text.clone();
        user_data.service_profiles[0].public_identities[1].display_name = Some(text);
        prop_assert_eq!(UserData::parse(user_data.to_xml().as_bytes()).unwrap(), user_data);
    }
}
