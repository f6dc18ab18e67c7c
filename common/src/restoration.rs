//! The 504 that sends a UE back to register (TS 24.229 §5.2.6.3.2A, §5.4.3.2, §7.6; TS 23.380 §4.4).
//!
//! A P-CSCF that does not get through to the S-CSCF of a UE, and an S-CSCF that knows nothing of the UE that it is said
//! to serve, say so in an alternative service of type `restoration`. A UE believes it of a node that stands in its own
//! Path or Service-Route: that is what P-Asserted-Identity is for.

use bytes::Bytes;
use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

use crate::sip::header::Name;
use crate::sip::message::{Request, Response};

/// Of the IM CN subsystem XML body (TS 24.229 §7.6).
pub const CONTENT_TYPE: &str = "application/3gpp-ims+xml";

const RESTORATION: [(&str, &str); 2] =
    [("type", "restoration"), ("action", "initial-registration")];

/// 504 to `request` with which its UE begins anew. `own` is the name-addr of this node as the UE has it from Path or
/// Service-Route; `reason` is for whoever reads the trace.
pub fn register_anew(request: &Request, own: &str, reason: &str) -> Response {
    let mut response = request.response(504, "Server Time-out");
    response.headers_mut().append(Name::PAssertedIdentity, own);
    let [(kind, restoration), (action, registration)] = RESTORATION;
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ims-3gpp version=\"1\"><alternative-service>\
         <{kind}>{restoration}</{kind}><reason>{}</reason><{action}>{registration}</{action}>\
         </alternative-service></ims-3gpp>\n",
        escape(reason)
    );
    response.set_body(CONTENT_TYPE, Bytes::from(xml));
    response
}

/// The response asks its UE to register anew. Whether the UE believes it is the UE's to say.
///
/// The body counts by its Content-Type alone, whatever Content-Disposition says (TS 24.229 §5.1.2A.1.6).
pub fn asks_to_register_anew(response: &Response) -> bool {
    let content_type = response.headers().get(Name::ContentType).unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    if response.status() != 504 || !media.eq_ignore_ascii_case(CONTENT_TYPE) {
        return false;
    }
    let Ok(text) = std::str::from_utf8(response.body()) else { return false };
    let mut found = RESTORATION.map(|_| false);
    let mut path: Vec<String> = Vec::new();
    let mut reader = Reader::from_str(text);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) if path.len() < 8 => {
                path.push(start.name().as_ref().to_owned())
            }
            Ok(Event::End(_)) => drop(path.pop()),
            Ok(Event::Text(text)) => {
                let [root, service, name] = &path[..] else { continue };
                if (root.as_str(), service.as_str()) != ("ims-3gpp", "alternative-service") {
                    continue;
                }
                for (place, (wanted, value)) in RESTORATION.iter().enumerate() {
                    found[place] |= name == wanted && text.trim() == *value;
                }
            }
            Ok(Event::Eof) => return found == [true, true],
            Ok(Event::Start(_)) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::sip::message::Message;

    fn subscribe() -> Request {
        let text = "SUBSCRIBE sip:a@hims.net SIP/2.0\r\nVia: SIP/2.0/UDP 10.45.0.2;branch=z9hG4bKa\r\n\
                    From: <sip:a@hims.net>;tag=a\r\nTo: <sip:a@hims.net>\r\nCall-ID: a\r\n\
                    CSeq: 1 SUBSCRIBE\r\nContent-Length: 0\r\n\r\n";
        match Message::parse(Bytes::from_static(text.as_bytes()), &Limits::default()) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let response = register_anew(&subscribe(), "<sip:orig@scscf1.hims.net;lr>", "a < b");
        assert!(asks_to_register_anew(&response));
        assert_eq!(
            response.headers().get(Name::PAssertedIdentity),
            Some("<sip:orig@scscf1.hims.net;lr>")
        );
        let body = String::from_utf8_lossy(response.body()).into_owned();
        assert!(body.contains("<reason>a &lt; b</reason>"), "{body}");
        for (from, to) in [
            ("restoration", "emergency"),
            ("initial-registration", "emergency-registration"),
            ("alternative-service", "service-info"),
            ("<type>", "<kind>"),
            ("</ims-3gpp>", "</ims-3gpp"),
        ] {
            let mut other = register_anew(&subscribe(), "<sip:s>", "");
            other.set_body(CONTENT_TYPE, body.replace(from, to).into());
            assert!(!asks_to_register_anew(&other), "{from}: {to}");
        }
        let mut other = response.clone();
        other.set_body("text/plain", body.clone().into());
        assert!(!asks_to_register_anew(&other));
        let mut other = subscribe().response(503, "Service Unavailable");
        other.set_body(CONTENT_TYPE, body.clone().into());
        assert!(!asks_to_register_anew(&other));
        // As another make writes it.
        let mut other = subscribe().response(504, "Server Time-out");
        let spread = body.replace("><", ">\r\n  <");
        other.set_body("Application/3gpp-ims+xml;sv=\"1\"", spread.into());
        assert!(asks_to_register_anew(&other));
    }
}
