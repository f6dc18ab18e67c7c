//! Push-Profile-Request and -Answer (TS 29.229 §6.1.11, §6.1.12).

use bytes::Bytes;

use crate::cx::{ChargingInformation, Outcome};

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ppr {
    pub destination_host: String,
    pub user_name: String,
    pub user_data: Option<Bytes>,
    pub charging_information: Option<ChargingInformation>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ppa { pub outcome: Outcome }
