//! Server-Assignment-Request and -Answer (TS 29.229 §6.1.3, §6.1.4).

use bytes::Bytes;

use crate::cx::avp::{self, invalid, once, pass_over};
use crate::cx::{
    ChargingInformation, Outcome, Results, ScscfRestorationInfo, write_supported_features,
};
use crate::diameter::base;
use crate::diameter::message::{Builder, Failure, Message};

/// Server-Assignment-Type (TS 29.229 §6.3.15); values 0 to 11.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ServerAssignmentType {
    #[default]
    NoAssignment,
    Registration,
    ReRegistration,
    UnregisteredUser,
    TimeoutDeregistration,
    UserDeregistration,
    TimeoutDeregistrationStoreServerName,
    UserDeregistrationStoreServerName,
    AdministrativeDeregistration,
    AuthenticationFailure,
    AuthenticationTimeout,
    DeregistrationTooMuchData,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sar {
    pub user_name: Option<String>,
    pub public_identities: Vec<String>,
    pub wildcarded_public_identity: Option<String>,
    pub server_name: String,
    pub server_assignment_type: ServerAssignmentType,
    /// User-Data-Already-Available.
    pub user_data_already_available: bool,
    /// SCSCF-Restoration-Info: what another S-CSCF needs (TS 23.380 §4).
    pub restoration: Option<ScscfRestorationInfo>,
    /// Multiple-Registration-Indication: the UE registers several flows.
    pub is_multiple_registration: bool,
    /// SAR-Flags bit 0.
    pub is_pcscf_restoration: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Saa {
    pub outcome: Outcome,
    pub user_name: Option<String>,
    /// User-Data: XML, see [`crate::cx::user_data`].
    pub user_data: Option<Bytes>,
    pub charging_information: Option<ChargingInformation>,
    /// Associated-Identities: User-Names.
    pub associated_identities: Vec<String>,
    pub server_name: Option<String>,
    /// What an S-CSCF left for all private identities that registered the public identity.
    pub restoration: Vec<ScscfRestorationInfo>,
    /// Associated-Registered-Identities: User-Names.
    pub associated_registered_identities: Vec<String>,
    /// Under which wildcard the identity falls.
    pub wildcarded_public_identity: Option<String>,
}

impl ServerAssignmentType {
    const ALL: [ServerAssignmentType; 12] = [
        ServerAssignmentType::NoAssignment,
        ServerAssignmentType::Registration,
        ServerAssignmentType::ReRegistration,
        ServerAssignmentType::UnregisteredUser,
        ServerAssignmentType::TimeoutDeregistration,
        ServerAssignmentType::UserDeregistration,
        ServerAssignmentType::TimeoutDeregistrationStoreServerName,
        ServerAssignmentType::UserDeregistrationStoreServerName,
        ServerAssignmentType::AdministrativeDeregistration,
        ServerAssignmentType::AuthenticationFailure,
        ServerAssignmentType::AuthenticationTimeout,
        ServerAssignmentType::DeregistrationTooMuchData,
    ];

    /// TS 29.228 §6.1.2: one of the types that end a registration.
    pub fn is_deregistration(self) -> bool {
        matches!(
            self,
            ServerAssignmentType::TimeoutDeregistration
                | ServerAssignmentType::UserDeregistration
                | ServerAssignmentType::TimeoutDeregistrationStoreServerName
                | ServerAssignmentType::UserDeregistrationStoreServerName
                | ServerAssignmentType::AdministrativeDeregistration
                | ServerAssignmentType::DeregistrationTooMuchData
        )
    }
}

impl Sar {
    /// TS 29.229 §6.1.3: reads the AVPs of an SAR.
    ///
    /// # Errors
    ///
    /// As all requests; 5005 too when the Server-Assignment-Type wants a Public-Identity or a
    /// User-Name (TS 29.228 table 6.1.2.1) that is not there.
    pub fn decode(message: &Message) -> Result<Sar, Failure> {
        let (mut server_name, mut assignment_type, mut available) = (None, None, None);
        let mut sar = Sar::default();
        for avp in message.avps() {
            if avp.is(base::USER_NAME) {
                once(&mut sar.user_name, avp.text()?.to_owned(), &avp)?;
            } else if avp.is(avp::PUBLIC_IDENTITY) {
                sar.public_identities.push(avp.text()?.to_owned());
            } else if avp.is(avp::WILDCARDED_PUBLIC_IDENTITY) {
                once(&mut sar.wildcarded_public_identity, avp.text()?.to_owned(), &avp)?;
            } else if avp.is(avp::SERVER_NAME) {
                once(&mut server_name, avp.text()?, &avp)?;
            } else if avp.is(avp::SERVER_ASSIGNMENT_TYPE) {
                let number = avp.number()? as usize;
                let known = ServerAssignmentType::ALL.get(number).copied();
                once(&mut assignment_type, known.ok_or_else(|| invalid(&avp))?, &avp)?;
            } else if avp.is(avp::USER_DATA_ALREADY_AVAILABLE) {
                let number = avp.number()?;
                once(&mut available, number, &avp)?;
                if number > 1 {
                    return Err(invalid(&avp));
                }
            } else if avp.is(avp::SCSCF_RESTORATION_INFO) {
                once(&mut sar.restoration, ScscfRestorationInfo::decode(&avp)?, &avp)?;
            } else if avp.is(avp::MULTIPLE_REGISTRATION_INDICATION) {
                sar.is_multiple_registration = avp.number()? == 1;
            } else if avp.is(avp::SAR_FLAGS) {
                sar.is_pcscf_restoration = avp.number()? & avp::SAR_FLAG_PCSCF_RESTORATION != 0;
            } else {
                pass_over(&avp)?;
            }
        }
        sar.server_name = server_name.ok_or_else(|| Failure::missing(avp::SERVER_NAME))?.to_owned();
        sar.server_assignment_type =
            assignment_type.ok_or_else(|| Failure::missing(avp::SERVER_ASSIGNMENT_TYPE))?;
        let available =
            available.ok_or_else(|| Failure::missing(avp::USER_DATA_ALREADY_AVAILABLE))?;
        sar.user_data_already_available = available == 1;
        sar.check_identities()?;
        Ok(sar)
    }

    /// TS 29.228 §6.1.2 table 6.1.2.1: who must be named depends on the type.
    fn check_identities(&self) -> Result<(), Failure> {
        let names_user = self.user_name.is_some();
        let names_public = !self.public_identities.is_empty();
        match self.server_assignment_type {
            kind if kind.is_deregistration() => {
                if !names_user && !names_public {
                    return Err(Failure::missing(base::USER_NAME));
                }
            }
            // A public service identity has no private one.
            ServerAssignmentType::UnregisteredUser | ServerAssignmentType::NoAssignment => {
                if !names_public {
                    return Err(Failure::missing(avp::PUBLIC_IDENTITY));
                }
            }
            _ => {
                if !names_user {
                    return Err(Failure::missing(base::USER_NAME));
                }
                if !names_public {
                    return Err(Failure::missing(avp::PUBLIC_IDENTITY));
                }
            }
        }
        Ok(())
    }

    /// TS 29.229 §6.1.3: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        avp::optional_text(builder, base::USER_NAME, self.user_name.as_deref());
        for public_identity in &self.public_identities {
            builder.text(avp::PUBLIC_IDENTITY, public_identity);
        }
        let wildcarded = self.wildcarded_public_identity.as_deref();
        avp::optional_text(builder, avp::WILDCARDED_PUBLIC_IDENTITY, wildcarded);
        builder.text(avp::SERVER_NAME, &self.server_name);
        builder.number(avp::SERVER_ASSIGNMENT_TYPE, self.server_assignment_type as u32);
        let available = u32::from(self.user_data_already_available);
        builder.number(avp::USER_DATA_ALREADY_AVAILABLE, available);
        if let Some(restoration) = &self.restoration {
            write_supported_features(builder);
            restoration.encode(builder);
        }
        if self.is_multiple_registration {
            builder.number(avp::MULTIPLE_REGISTRATION_INDICATION, 1);
        }
        if self.is_pcscf_restoration {
            builder.number(avp::SAR_FLAGS, avp::SAR_FLAG_PCSCF_RESTORATION);
        }
    }
}

impl Saa {
    /// TS 29.229 §6.1.4: reads an SAA. The User-Data is not copied.
    pub fn decode(message: &Message) -> Result<Saa, Failure> {
        let mut results = Results::default();
        let mut saa = Saa::default();
        for avp in message.avps() {
            if avp.is(base::USER_NAME) {
                saa.user_name = Some(avp.text()?.to_owned());
            } else if avp.is(avp::USER_DATA) {
                saa.user_data = Some(message.slice(avp.data));
            } else if avp.is(avp::CHARGING_INFORMATION) {
                saa.charging_information = Some(ChargingInformation::decode(&avp)?);
            } else if avp.is(avp::ASSOCIATED_IDENTITIES) {
                saa.associated_identities = avp::user_names(&avp)?;
            } else if avp.is(avp::SERVER_NAME) {
                saa.server_name = Some(avp.text()?.to_owned());
            } else if avp.is(avp::SCSCF_RESTORATION_INFO) {
                saa.restoration.push(ScscfRestorationInfo::decode(&avp)?);
            } else if avp.is(avp::ASSOCIATED_REGISTERED_IDENTITIES) {
                saa.associated_registered_identities = avp::user_names(&avp)?;
            } else if avp.is(avp::WILDCARDED_PUBLIC_IDENTITY) {
                saa.wildcarded_public_identity = Some(avp.text()?.to_owned());
            } else {
                results.take(&avp)?;
            }
        }
        saa.outcome = results.outcome()?;
        Ok(saa)
    }

    /// TS 29.229 §6.1.4: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        self.outcome.encode(builder);
        avp::optional_text(builder, base::USER_NAME, self.user_name.as_deref());
        if let Some(user_data) = &self.user_data {
            builder.octets(avp::USER_DATA, user_data);
        }
        if let Some(charging_information) = &self.charging_information {
            charging_information.encode(builder);
        }
        let identities = &self.associated_identities;
        avp::write_user_names(builder, avp::ASSOCIATED_IDENTITIES, identities);
        avp::optional_text(builder, avp::SERVER_NAME, self.server_name.as_deref());
        for restoration in &self.restoration {
            restoration.encode(builder);
        }
        let identities = &self.associated_registered_identities;
        avp::write_user_names(builder, avp::ASSOCIATED_REGISTERED_IDENTITIES, identities);
        let wildcarded = self.wildcarded_public_identity.as_deref();
        avp::optional_text(builder, avp::WILDCARDED_PUBLIC_IDENTITY, wildcarded);
    }
}
