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

impl Name {
    /// Finds a name, long or compact, in any case.
    pub fn find(text: &[u8]) -> Option<Name> { let _ = text; todo!() }
}
