//! Profile pushed by the HSS: PPR (TS 29.228 §6.2.2).

use common::cx::user_data::UserData;
use common::cx::{self, ChargingInformation, Outcome, Ppa, Ppr, Received};
use common::identity::Impi;
use common::node::{Now, Output};

use crate::Scscf;
use crate::state::{Charging, Registration, canonical, default_of};
use crate::watch::Cause;

impl Scscf {
    /// TS 29.228 §6.2.2.1: the profile of a set is replaced at once, for every private identity
    /// that shares it. What must not change is refused, and nothing is changed then.
    pub(crate) fn push_profile(&mut self, now: Now, received: Received, out: &mut Vec<Output>) {
        let cx::Request::Ppr(ppr) = &received.request else { return };
        let outcome = self.pushed(now, ppr, out);
        let private_identity = self.logged(&ppr.user_name).into_owned();
        self.stats.pushed(outcome.is_success());
        tracing::info!(procedure = "profile push", private_identity, ?outcome, "answered");
        self.cx.answer(now, received, cx::Answer::Ppa(Ppa { outcome }), out);
    }

    fn pushed(&mut self, now: Now, ppr: &Ppr, out: &mut Vec<Output>) -> Outcome {
        let private_identity = Impi::new(ppr.user_name.as_str());
        let charging = ppr.charging_information.clone();
        self.take_changes(now, &private_identity, ppr.user_data.as_deref(), charging, out)
    }

    /// What the HSS has for a user who is served here, by a PPR or by the SAA that an earlier one came to nothing for;
    /// watchers hear of it.
    pub(crate) fn take_changes(
        &mut self,
        now: Now,
        private_identity: &Impi,
        user_data: Option<&[u8]>,
        charging: Option<ChargingInformation>,
        out: &mut Vec<Output>,
    ) -> Outcome {
        let held = self.registrations.of(private_identity);
        if held.is_empty() {
            return Outcome::USER_UNKNOWN;
        }
        let data = match user_data.map(UserData::parse) {
            None => None,
            Some(Ok(data)) => Some(data),
            Some(Err(malformed)) => {
                tracing::warn!(reason = malformed.0, "pushed User-Data is no service profile");
                return Outcome::NOT_SUPPORTED_USER_DATA;
            }
        };
        let charging = charging.map(Charging::from);
        let changed = match &data {
            // Charging addresses alone are for all that the user has, on every device.
            None => held.iter().flat_map(|held| self.sharing_set(held)).collect(),
            Some(data) => match self.sharing(private_identity, data) {
                Some(sharing) => sharing,
                None => return Outcome::NOT_SUPPORTED_USER_DATA,
            },
        };
        for mut registration in changed {
            let set = registration.set();
            if let Some(data) = &data {
                registration.service_profiles = data.service_profiles.clone();
            }
            if let Some(charging) = &charging {
                registration.charging = charging.clone();
            }
            self.store_as(now, &set, registration, Cause::ProfileChanged, out);
        }
        Outcome::SUCCESS
    }

    /// The registrations, of this private identity and of others, with the set that is pushed.
    /// `None` when there is none, when its default identity changed, which is the first that is
    /// neither barred nor a wildcard and which the HSS must not change while it is registered, or when no
    /// identity would be left that may be used.
    fn sharing(&self, private_identity: &Impi, data: &UserData) -> Option<Vec<Registration>> {
        let mut identities = data.public_identities();
        if identities.all(|identity| identity.is_barred) {
            return None;
        }
        let first = default_of(|| data.public_identities());
        let default = &canonical(first.or_else(|| data.public_identities().next())?);
        let own = self.registrations.find(private_identity, default)?;
        if own.has_unbarred() && own.default_identity() != *default {
            return None;
        }
        Some(self.sharing_set(own))
    }

    /// Those with the same set: the HSS pushes for one of their private identities (TS 29.228 §6.2.2.1).
    fn sharing_set(&self, own: &Registration) -> Vec<Registration> {
        let identity = own.default_identity();
        let sharers = self.registrations.sharers(&identity).iter();
        sharers.filter_map(|sharer| self.registrations.find(sharer, &identity)).cloned().collect()
    }
}
