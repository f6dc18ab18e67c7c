//! What carries ESP: the kernel (XFRM) or this process (raw sockets and a TUN). One decision logic
//! in the core, two data planes (TS 33.203 §7).

use std::net::SocketAddr;
use std::rc::Rc;

use super::PlaneChoice;
use super::http::MoreSamples;
use super::inbox::Inbox;
use crate::ipsec::sa::{SaSet, SetId};
use crate::stats::Samples;

const ABSENT: &str = "ipsec: this build has no data plane yet; leave out [ipsec]";

/// The data plane of this process.
pub(super) enum Plane {}

impl Plane {
    pub fn open(_: PlaneChoice, _: &[SocketAddr], _: &Rc<Inbox>) -> Result<Plane, String> {
        Err(ABSENT.to_owned())
    }

    pub fn device(&self) -> Option<&str> {
        match *self {}
    }

    pub fn install(&mut self, _: &SaSet) -> Result<(), String> {
        match *self {}
    }

    pub fn remove(&mut self, _: SetId) -> Vec<(SocketAddr, SocketAddr)> {
        match *self {}
    }

    pub fn samples(&self, _: &mut Samples) {
        match *self {}
    }

    pub fn more_samples(&self) -> Option<MoreSamples> {
        match *self {}
    }

    pub fn close(&mut self) {
        match *self {}
    }
}

/// Which plane could be opened.
pub(super) fn check(_: PlaneChoice) -> Result<String, String> {
    Err(ABSENT.to_owned())
}
