//! Header names (RFC 3261 §7.3.3, and the IMS ones), compact forms included.

macro_rules! names {
    ($($variant:ident $text:literal $($compact:literal)?;)*) => {
        /// A header name that something here looks at.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Name { $($variant),* }

        impl Name {
            pub const ALL: &'static [Name] = &[$(Name::$variant),*];

            /// The long form, in the standard's capitals.
            pub const fn as_str(self) -> &'static str {
                match self { $(Name::$variant => $text),* }
            }

            /// The one-letter form, where one is registered.
            pub const fn compact(self) -> Option<u8> {
                match self { $(Name::$variant => { #[allow(unused_mut, unused_assignments)] let mut c = None; $(c = Some($compact);)? c }),* }
            }
        }
    };
}

names! {
    AcceptContact "Accept-Contact" b'a';
    Accept "Accept";
    Allow "Allow";
    AllowEvents "Allow-Events" b'u';
    AuthenticationInfo "Authentication-Info";
    Authorization "Authorization";
    CSeq "CSeq";
    CallId "Call-ID" b'i';
    Contact "Contact" b'm';
    ContentEncoding "Content-Encoding" b'e';
    ContentLength "Content-Length" b'l';
    ContentType "Content-Type" b'c';
    Date "Date";
    ErrorInfo "Error-Info";
    Event "Event" b'o';
    Expires "Expires";
    FeatureCaps "Feature-Caps";
    From "From" b'f';
    MaxForwards "Max-Forwards";
    MinExpires "Min-Expires";
    PAccessNetworkInfo "P-Access-Network-Info";
    PAssertedIdentity "P-Asserted-Identity";
    PAssociatedUri "P-Associated-URI";
    PCalledPartyId "P-Called-Party-ID";
    PChargingFunctionAddresses "P-Charging-Function-Addresses";
    PChargingVector "P-Charging-Vector";
    PPreferredIdentity "P-Preferred-Identity";
    PVisitedNetworkId "P-Visited-Network-ID";
    Path "Path";
    Privacy "Privacy";
    ProxyAuthenticate "Proxy-Authenticate";
    ProxyAuthorization "Proxy-Authorization";
    ProxyRequire "Proxy-Require";
    Reason "Reason";
    RecordRoute "Record-Route";
    Require "Require";
    RetryAfter "Retry-After";
    Route "Route";
    SecurityClient "Security-Client";
    SecurityServer "Security-Server";
    SecurityVerify "Security-Verify";
    Server "Server";
    ServiceRoute "Service-Route";
    SubscriptionState "Subscription-State";
    Supported "Supported" b'k';
    Timestamp "Timestamp";
    To "To" b't';
    Unsupported "Unsupported";
    UserAgent "User-Agent";
    Via "Via" b'v';
    WwwAuthenticate "WWW-Authenticate";
    Warning "Warning";
}

/// Open addressing over all long names; each slot is an index into [`Name::ALL`], or [`FREE`].
const TABLE: [u8; SLOTS] = {
    let mut table = [FREE; SLOTS];
    let mut index = 0;
    while index < Name::ALL.len() {
        let mut slot = slot_of(Name::ALL[index].as_str().as_bytes());
        while table[slot] != FREE {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = index as u8;
        index += 1;
    }
    table
};

/// Compact forms by letter.
const COMPACT: [Option<Name>; 26] = {
    let mut table = [None; 26];
    let mut index = 0;
    while index < Name::ALL.len() {
        if let Some(letter) = Name::ALL[index].compact() {
            table[(letter - b'a') as usize] = Some(Name::ALL[index]);
        }
        index += 1;
    }
    table
};

const SLOTS: usize = 512;
const FREE: u8 = u8::MAX;

/// From the length and three letters, whatever their case. `text` is not empty.
const fn slot_of(text: &[u8]) -> usize {
    let length = text.len();
    let first = (text[0] | 0x20) as usize;
    let middle = (text[length / 2] | 0x20) as usize;
    let last = (text[length - 1] | 0x20) as usize;
    (length * 37 + first * 5 + middle * 67 + last * 17) % SLOTS
}

impl Name {
    /// RFC 3261 §7.3.3: finds a name, long or compact, in any case.
    pub fn find(text: &[u8]) -> Option<Name> {
        match text {
            [] => None,
            [letter] if letter.is_ascii_alphabetic() => {
                COMPACT[(letter.to_ascii_lowercase() - b'a') as usize]
            }
            _ => {
                let mut slot = slot_of(text);
                while TABLE[slot] != FREE {
                    let name = Name::ALL[TABLE[slot] as usize];
                    let long = name.as_str().as_bytes();
                    if long == text || long.eq_ignore_ascii_case(text) {
                        return Some(name);
                    }
                    slot = (slot + 1) % SLOTS;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3261 §7.3.1, §7.3.3; S-105: any case, long and compact.
    #[test]
    fn finds_every_name() {
        for name in Name::ALL {
            let long = name.as_str();
            assert_eq!(Name::find(long.as_bytes()), Some(*name));
            assert_eq!(Name::find(long.to_uppercase().as_bytes()), Some(*name));
            assert_eq!(Name::find(long.to_lowercase().as_bytes()), Some(*name));
            assert_eq!(Name::find(format!("{long}x").as_bytes()), None);
            if let Some(letter) = name.compact() {
                assert_eq!(Name::find(&[letter]), Some(*name));
                assert_eq!(Name::find(&[letter.to_ascii_uppercase()]), Some(*name));
            }
        }
        for text in ["", "x", "1", "Vi", "Vib", "Content Length", "\r\n", "P-Unknown"] {
            assert_eq!(Name::find(text.as_bytes()), None, "{text}");
        }
    }

    /// A look-up touches few slots, or the index gets slow.
    #[test]
    fn keeps_probes_short() {
        let probes = |name: &Name| {
            let mut slot = slot_of(name.as_str().as_bytes());
            let mut count = 1;
            while Name::ALL[TABLE[slot] as usize] != *name {
                slot = (slot + 1) % SLOTS;
                count += 1;
            }
            count
        };
        assert!(Name::ALL.iter().map(probes).max().unwrap() <= 3);
    }
}
