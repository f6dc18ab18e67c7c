//! The service profile and its XML (TS 29.228 Annexes B, E; cx-diameter section 5).

use serde::{Deserialize, Serialize};

use crate::cx::xml::{Walk, Xml, malformed};

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UserData {
    pub private_identity: String,
    pub service_profiles: Vec<ServiceProfile>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceProfile {
    pub public_identities: Vec<PublicIdentity>,
    pub subscribed_media_profile_id: Option<u32>,
    pub initial_filter_criteria: Vec<InitialFilterCriterion>,
    pub shared_ifc_set_ids: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PublicIdentity {
    pub identity: String,
    pub is_barred: bool,
    /// IdentityType: 0 distinct PUI, 1 distinct PSI, 2 wildcarded PSI, 3 non-distinct PUI, 4
    /// wildcarded PUI.
    pub identity_type: u8,
    pub display_name: Option<String>,
    pub alias_identity_group_id: Option<String>,
    pub wildcarded_identity: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InitialFilterCriterion {
    pub priority: u32,
    /// Absent: always.
    pub trigger_point: Option<TriggerPoint>,
    pub server_name: String,
    /// DefaultHandling: true for SESSION_TERMINATED.
    pub default_handling_terminated: bool,
    pub service_info: Option<String>,
    /// ProfilePartIndicator: `Some(true)` REGISTERED only, `Some(false)` UNREGISTERED only.
    pub registered_part: Option<bool>,
    pub include_register_request: bool,
    pub include_register_response: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TriggerPoint {
    /// ConditionTypeCNF: true AND of OR groups, false OR of AND groups.
    pub is_cnf: bool,
    pub service_point_triggers: Vec<ServicePointTrigger>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServicePointTrigger {
    pub is_negated: bool,
    pub groups: Vec<u32>,
    pub condition: Condition,
    /// RegistrationType values, only with Method REGISTER; empty: all.
    pub registration_types: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Condition {
    RequestUri(String),
    Method(String),
    SipHeader {
        header: String,
        content: Option<String>,
    },
    /// 0 ORIGINATING_REGISTERED, 1 TERMINATING_REGISTERED, 2 TERMINATING_UNREGISTERED, 3
    /// ORIGINATING_UNREGISTERED, 4 ORIGINATING_CDIV.
    SessionCase(u8),
    SessionDescription {
        line: String,
        content: Option<String>,
    },
}

/// Why a document is not a service profile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Malformed(pub String);

impl UserData {
    /// TS 29.228 §E: reads the document; elements that it does not know are passed over, with all
    /// that is in them.
    ///
    /// # Errors
    ///
    /// When it is no XML, has a document type, or lacks what the schema requires.
    pub fn parse(xml: &[u8]) -> Result<UserData, Malformed> {
        let text = std::str::from_utf8(xml).map_err(|_| malformed("not UTF-8"))?;
        let mut walk = Walk::new(text);
        let mut user_data = None;
        while let Some(name) = walk.child()? {
            match &name[..] {
                "IMSSubscription" if user_data.is_none() => {
                    user_data = Some(UserData::read(&mut walk)?);
                }
                _ => return Err(Malformed(format!("root element {name}"))),
            }
        }
        user_data.ok_or_else(|| malformed("no IMSSubscription"))
    }

    /// TS 29.228 §E: elements in the schema's order.
    pub fn to_xml(&self) -> String {
        let mut xml = Xml(String::with_capacity(2048));
        xml.0.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        xml.element("IMSSubscription", |xml| {
            xml.text("PrivateID", &self.private_identity);
            for profile in &self.service_profiles {
                xml.element("ServiceProfile", |xml| profile.write(xml));
            }
        });
        xml.0
    }

    /// All public identities over all profiles, in order.
    pub fn public_identities(&self) -> impl Iterator<Item = &PublicIdentity> {
        self.service_profiles.iter().flat_map(|profile| profile.public_identities.iter())
    }

    fn read(walk: &mut Walk) -> Result<UserData, Malformed> {
        let mut private_identity = None;
        let mut service_profiles = Vec::new();
        while let Some(name) = walk.child()? {
            match &name[..] {
                "PrivateID" => private_identity = Some(walk.text()?),
                "ServiceProfile" => service_profiles.push(ServiceProfile::read(walk)?),
                _ => walk.skip()?,
            }
        }
        if service_profiles.is_empty() {
            return Err(malformed("no ServiceProfile"));
        }
        let private_identity = private_identity.ok_or_else(|| malformed("no PrivateID"))?;
        Ok(UserData { private_identity, service_profiles })
    }
}

impl ServiceProfile {
    fn read(walk: &mut Walk) -> Result<ServiceProfile, Malformed> {
        let mut profile = ServiceProfile::default();
        while let Some(name) = walk.child()? {
            match &name[..] {
                "PublicIdentity" => profile.public_identities.push(PublicIdentity::read(walk)?),
                "CoreNetworkServicesAuthorization" => {
                    while let Some(name) = walk.child()? {
                        match &name[..] {
                            "SubscribedMediaProfileId" => {
                                profile.subscribed_media_profile_id = Some(walk.number(&name)?);
                            }
                            _ => walk.skip()?,
                        }
                    }
                }
                "InitialFilterCriteria" => {
                    profile.initial_filter_criteria.push(InitialFilterCriterion::read(walk)?);
                }
                "Extension" => {
                    while let Some(name) = walk.child()? {
                        match &name[..] {
                            "SharedIFCSetID" => {
                                profile.shared_ifc_set_ids.push(walk.number(&name)?);
                            }
                            _ => walk.skip()?,
                        }
                    }
                }
                _ => walk.skip()?,
            }
        }
        if profile.public_identities.is_empty() {
            return Err(malformed("ServiceProfile without PublicIdentity"));
        }
        Ok(profile)
    }

    fn write(&self, xml: &mut Xml) {
        for identity in &self.public_identities {
            xml.element("PublicIdentity", |xml| identity.write(xml));
        }
        if let Some(id) = self.subscribed_media_profile_id {
            xml.element("CoreNetworkServicesAuthorization", |xml| {
                xml.number("SubscribedMediaProfileId", id);
            });
        }
        for criterion in &self.initial_filter_criteria {
            xml.element("InitialFilterCriteria", |xml| criterion.write(xml));
        }
        if !self.shared_ifc_set_ids.is_empty() {
            xml.element("Extension", |xml| {
                for id in &self.shared_ifc_set_ids {
                    xml.number("SharedIFCSetID", *id);
                }
            });
        }
    }
}

/// IdentityType of a wildcarded PSI, whose wildcard stands in an element of its own.
const WILDCARDED_PSI: u8 = 2;

impl PublicIdentity {
    fn read(walk: &mut Walk) -> Result<PublicIdentity, Malformed> {
        let mut public = PublicIdentity::default();
        while let Some(name) = walk.child()? {
            match &name[..] {
                "BarringIndication" => public.is_barred = walk.boolean(&name)?,
                "Identity" => public.identity = walk.text()?,
                "Extension" => public.read_extension(walk)?,
                _ => walk.skip()?,
            }
        }
        if public.identity.is_empty() {
            return Err(malformed("PublicIdentity without Identity"));
        }
        Ok(public)
    }

    /// Extensions lie inside one another; each element has its level, which need not be checked to
    /// read it. The walk bounds the depth.
    fn read_extension(&mut self, walk: &mut Walk) -> Result<(), Malformed> {
        while let Some(name) = walk.child()? {
            match &name[..] {
                "IdentityType" => {
                    self.identity_type = walk.number(&name)?;
                    if self.identity_type > 4 {
                        return Err(Malformed(format!("IdentityType {}", self.identity_type)));
                    }
                }
                "WildcardedPSI" | "WildcardedIMPU" => {
                    self.wildcarded_identity = Some(walk.text()?);
                }
                "DisplayName" => self.display_name = Some(walk.text()?),
                "AliasIdentityGroupID" => self.alias_identity_group_id = Some(walk.text()?),
                "Extension" => self.read_extension(walk)?,
                _ => walk.skip()?,
            }
        }
        Ok(())
    }

    fn write(&self, xml: &mut Xml) {
        if self.is_barred {
            xml.number("BarringIndication", 1);
        }
        xml.text("Identity", &self.identity);
        let is_psi = self.identity_type == WILDCARDED_PSI;
        let wildcard = self.wildcarded_identity.as_deref();
        let (wildcarded_psi, wildcarded_impu) =
            if is_psi { (wildcard, None) } else { (None, wildcard) };
        let has_inner = self.display_name.is_some()
            || self.alias_identity_group_id.is_some()
            || wildcarded_impu.is_some();
        if self.identity_type == 0 && !has_inner {
            return;
        }
        xml.element("Extension", |xml| {
            xml.number("IdentityType", u32::from(self.identity_type));
            xml.optional("WildcardedPSI", wildcarded_psi);
            if !has_inner {
                return;
            }
            xml.element("Extension", |xml| {
                xml.optional("DisplayName", self.display_name.as_deref());
                xml.optional("AliasIdentityGroupID", self.alias_identity_group_id.as_deref());
                if wildcarded_impu.is_some() {
                    xml.element("Extension", |xml| {
                        xml.optional("WildcardedIMPU", wildcarded_impu);
                    });
                }
            });
        });
    }
}

impl InitialFilterCriterion {
    fn read(walk: &mut Walk) -> Result<InitialFilterCriterion, Malformed> {
        let mut criterion = InitialFilterCriterion::default();
        let mut priority = None;
        while let Some(name) = walk.child()? {
            match &name[..] {
                "Priority" => priority = Some(walk.number(&name)?),
                "TriggerPoint" => criterion.trigger_point = Some(TriggerPoint::read(walk)?),
                "ApplicationServer" => criterion.read_application_server(walk)?,
                "ProfilePartIndicator" => {
                    criterion.registered_part = Some(match walk.number(&name)? {
                        0u32 => true,
                        1 => false,
                        other => return Err(Malformed(format!("ProfilePartIndicator {other}"))),
                    });
                }
                _ => walk.skip()?,
            }
        }
        criterion.priority =
            priority.ok_or_else(|| malformed("InitialFilterCriteria without Priority"))?;
        if criterion.server_name.is_empty() {
            return Err(malformed("ApplicationServer without ServerName"));
        }
        Ok(criterion)
    }

    fn read_application_server(&mut self, walk: &mut Walk) -> Result<(), Malformed> {
        while let Some(name) = walk.child()? {
            match &name[..] {
                "ServerName" => self.server_name = walk.text()?,
                "DefaultHandling" => self.default_handling_terminated = walk.boolean(&name)?,
                "ServiceInfo" => self.service_info = Some(walk.text()?),
                "Extension" => {
                    while let Some(name) = walk.child()? {
                        match &name[..] {
                            "IncludeRegisterRequest" => self.include_register_request = true,
                            "IncludeRegisterResponse" => self.include_register_response = true,
                            _ => {}
                        }
                        walk.skip()?;
                    }
                }
                _ => walk.skip()?,
            }
        }
        Ok(())
    }

    fn write(&self, xml: &mut Xml) {
        xml.number("Priority", self.priority);
        if let Some(trigger_point) = &self.trigger_point {
            xml.element("TriggerPoint", |xml| trigger_point.write(xml));
        }
        xml.element("ApplicationServer", |xml| {
            xml.text("ServerName", &self.server_name);
            xml.number("DefaultHandling", u32::from(self.default_handling_terminated));
            xml.optional("ServiceInfo", self.service_info.as_deref());
            if self.include_register_request || self.include_register_response {
                xml.element("Extension", |xml| {
                    if self.include_register_request {
                        xml.0.push_str("<IncludeRegisterRequest/>");
                    }
                    if self.include_register_response {
                        xml.0.push_str("<IncludeRegisterResponse/>");
                    }
                });
            }
        });
        if let Some(registered_part) = self.registered_part {
            xml.number("ProfilePartIndicator", u32::from(!registered_part));
        }
    }
}

impl TriggerPoint {
    fn read(walk: &mut Walk) -> Result<TriggerPoint, Malformed> {
        let mut trigger_point = TriggerPoint::default();
        let mut is_cnf = None;
        while let Some(name) = walk.child()? {
            match &name[..] {
                "ConditionTypeCNF" => is_cnf = Some(walk.boolean(&name)?),
                "SPT" => {
                    trigger_point.service_point_triggers.push(ServicePointTrigger::read(walk)?);
                }
                _ => walk.skip()?,
            }
        }
        trigger_point.is_cnf =
            is_cnf.ok_or_else(|| malformed("TriggerPoint without ConditionTypeCNF"))?;
        if trigger_point.service_point_triggers.is_empty() {
            return Err(malformed("TriggerPoint without SPT"));
        }
        Ok(trigger_point)
    }

    fn write(&self, xml: &mut Xml) {
        xml.number("ConditionTypeCNF", u32::from(self.is_cnf));
        for trigger in &self.service_point_triggers {
            xml.element("SPT", |xml| trigger.write(xml));
        }
    }
}

impl ServicePointTrigger {
    fn read(walk: &mut Walk) -> Result<ServicePointTrigger, Malformed> {
        let (mut is_negated, mut condition) = (false, None);
        let (mut groups, mut registration_types) = (Vec::new(), Vec::new());
        while let Some(name) = walk.child()? {
            match &name[..] {
                "ConditionNegated" => is_negated = walk.boolean(&name)?,
                "Group" => groups.push(walk.number(&name)?),
                "RequestURI" => condition = Some(Condition::RequestUri(walk.text()?)),
                "Method" => condition = Some(Condition::Method(walk.text()?)),
                "SIPHeader" => {
                    let (header, content) = walk.named_content("Header")?;
                    condition = Some(Condition::SipHeader { header, content });
                }
                "SessionCase" => {
                    let case: u8 = walk.number(&name)?;
                    if case > 4 {
                        return Err(Malformed(format!("SessionCase {case}")));
                    }
                    condition = Some(Condition::SessionCase(case));
                }
                "SessionDescription" => {
                    let (line, content) = walk.named_content("Line")?;
                    condition = Some(Condition::SessionDescription { line, content });
                }
                "Extension" => {
                    while let Some(name) = walk.child()? {
                        match &name[..] {
                            "RegistrationType" => registration_types.push(walk.number(&name)?),
                            _ => walk.skip()?,
                        }
                    }
                }
                _ => walk.skip()?,
            }
        }
        // A condition that cannot be understood must not count as one that is always met.
        let condition = condition.ok_or_else(|| malformed("SPT without a known condition"))?;
        if groups.is_empty() {
            return Err(malformed("SPT without Group"));
        }
        Ok(ServicePointTrigger { is_negated, groups, condition, registration_types })
    }

    fn write(&self, xml: &mut Xml) {
        xml.number("ConditionNegated", u32::from(self.is_negated));
        for group in &self.groups {
            xml.number("Group", *group);
        }
        match &self.condition {
            Condition::RequestUri(uri) => xml.text("RequestURI", uri),
            Condition::Method(method) => xml.text("Method", method),
            Condition::SipHeader { header, content } => xml.element("SIPHeader", |xml| {
                xml.text("Header", header);
                xml.optional("Content", content.as_deref());
            }),
            Condition::SessionCase(case) => xml.number("SessionCase", u32::from(*case)),
            Condition::SessionDescription { line, content } => {
                xml.element("SessionDescription", |xml| {
                    xml.text("Line", line);
                    xml.optional("Content", content.as_deref());
                });
            }
        }
        if !self.registration_types.is_empty() {
            xml.element("Extension", |xml| {
                for registration_type in &self.registration_types {
                    xml.number("RegistrationType", u32::from(*registration_type));
                }
            });
        }
    }
}
