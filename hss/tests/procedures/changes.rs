//! What an operator changes under an S-CSCF that serves: RTR by its reasons, PPR of what changed, identities of a
//! set (TS 29.228 §6.1.3, §6.2.2, §6.5.2). S-09, S-123.

use std::time::Duration;

use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType;
use common::cx::user_data::UserData;
use common::cx::{
    Answer, ChargingInformation, EmergencyRegistration, Lir, Outcome, Ppr, Request, Rtr, Sar,
};
use common::diameter::base::result_code;
use hss::provision::{self, ChargingAddresses, Profile};

use crate::node::{Network, sar, uar};
use crate::world::*;

const SUCCESS: Option<Outcome> = Some(Outcome::SUCCESS);
const HOME: &str = "sip:home@hims.net";

/// An AVP of 3GPP as it is on the wire.
fn avp(code: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let length = 12 + data.len();
    let mut avp = code.to_be_bytes().to_vec();
    avp.push(flags);
    avp.extend(&(length as u32).to_be_bytes()[1..]);
    avp.extend(10415_u32.to_be_bytes());
    avp.extend(data);
    avp.resize(length.next_multiple_of(4), 0);
    avp
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

/// TS 29.229 §6.3.16: Deregistration-Reason with Reason-Code alone, so no Reason-Info.
fn reason(code: u32) -> Vec<u8> {
    avp(615, 0xc0, &avp(616, 0xc0, &code.to_be_bytes()))
}

fn public_identity(identity: &str) -> Vec<u8> {
    avp(601, 0xc0, identity.as_bytes())
}

fn ppr(network: &Network, place: usize) -> &Ppr {
    match &network.asked[place] {
        (0, Request::Ppr(ppr)) => ppr,
        other => panic!("{other:?}"),
    }
}

fn rtr(network: &Network, place: usize) -> &Rtr {
    match &network.asked[place] {
        (_, Request::Rtr(rtr)) => rtr,
        other => panic!("{other:?}"),
    }
}

fn identities(ppr: &Ppr) -> Vec<String> {
    let user_data = UserData::parse(ppr.user_data.as_ref().unwrap()).unwrap();
    user_data.public_identities().map(|public| public.identity.clone()).collect()
}

fn refresh(network: &mut Network, user_name: &str) -> (bool, bool) {
    let refresh = Sar {
        user_data_already_available: true,
        ..sar(user_name, S1, ServerAssignmentType::ReRegistration)
    };
    let Answer::Saa(saa) = network.ask(0, Request::Sar(refresh)) else { panic!() };
    assert_eq!(saa.outcome, Outcome::SUCCESS);
    (saa.user_data.is_some(), saa.charging_information.is_some())
}

/// Bob, whom S1 serves although he is not registered.
fn unregistered() -> Network {
    let mut network = Network::new();
    let kind = ServerAssignmentType::UnregisteredUser;
    let bob = Sar { public_identities: vec![BOB_SIP.into()], ..sar(BOB, S1, kind) };
    assert_eq!(network.ask(0, Request::Sar(bob)).outcome(), Outcome::SUCCESS);
    network
}

fn server_name(network: &Network, user_name: &str) -> Option<String> {
    let all = network.hss.assignments().unwrap();
    all.into_iter().find(|one| one.private_identity == user_name).unwrap().server_name
}

/// TS 29.228 §6.1.3.1, TS 29.229 §6.3.17: what each reason is on the wire, and what is left of the state.
#[test]
fn a_termination_says_its_reason() {
    for (word, code) in [("permanent", 0), ("server-change", 2)] {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.answers = vec![SUCCESS];
        network.command(&["rtr", ALICE, word]);
        assert_eq!(count(&network.wire[0], &reason(code)), 1, "{word}");
        assert_eq!(rtr(&network, 0).destination_host, "scscf1.hims.net");
        assert!(!network.is_registered(ALICE));
        assert_eq!(server_name(&network, ALICE), None);
    }
}

/// TS 29.228 §6.1.3.1: REMOVE_S-CSCF is for a user who is served unregistered; nobody who is registered loses
/// anything by it, for nothing would tell the UE.
#[test]
fn removes_the_server_of_the_unregistered() {
    for answer in [SUCCESS, Some(Outcome::USER_UNKNOWN), None] {
        let mut network = unregistered();
        network.answers = vec![answer];
        network.command(&["rtr", BOB, "remove-scscf"]);
        assert_eq!(network.asked[0].0, 0);
        let asked = rtr(&network, 0);
        assert_eq!((&asked.user_name[..], &asked.destination_host[..]), (BOB, "scscf1.hims.net"));
        assert_eq!(asked.reason_code, ReasonCode::RemoveScscf);
        assert_eq!(count(&network.wire[0], &reason(3)), 1);
        assert_eq!(count(&network.wire[0], &public_identity(BOB_SIP)), 1);
        network.wait(Duration::from_secs(6));
        assert_eq!(server_name(&network, BOB), None, "{answer:?}");
        let lir = Request::Lir(Lir { public_identity: BOB_SIP.into(), ..Lir::default() });
        assert_eq!(network.ask(1, lir).outcome(), Outcome::IDENTITY_NOT_REGISTERED);
    }
    // What may not go stays.
    let mut network = unregistered();
    network.answers = vec![Some(Outcome::UNABLE_TO_COMPLY)];
    network.command(&["rtr", BOB, "remove-scscf"]);
    assert_eq!(server_name(&network, BOB).as_deref(), Some(S1));

    let mut network = Network::new();
    network.register(0, ALICE);
    network.command(&["rtr", ALICE, "remove-scscf"]);
    assert_eq!(network.replies, [format!("{ALICE}: no service for the unregistered")]);
    assert!(network.asked.is_empty() && network.is_registered(ALICE));
}

/// TS 29.228 §6.1.3.1: NEW_SERVER_ASSIGNED is for the S-CSCF that does not serve any more; the one that does
/// keeps the user, whatever the other answers.
#[test]
fn tells_a_displaced_server_by_hand() {
    for answer in [SUCCESS, Some(Outcome::USER_UNKNOWN), Some(Outcome::UNABLE_TO_COMPLY), None] {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.answers = vec![answer];
        network.command(&["rtr", ALICE, "new-server", "scscf2.hims.net"]);
        assert_eq!(network.asked[0].0, 1);
        let asked = rtr(&network, 0);
        assert_eq!(asked.destination_host, "scscf2.hims.net");
        assert_eq!(
            (&asked.user_name[..], asked.reason_code),
            (ALICE, ReasonCode::NewServerAssigned)
        );
        assert!(asked.associated_identities.is_empty());
        assert_eq!(count(&network.wire[0], &reason(1)), 1);
        for identity in [TEMPORARY, ALICE_SIP, ALICE_TEL, WORK] {
            assert_eq!(count(&network.wire[0], &public_identity(identity)), 1, "{identity}");
        }
        network.wait(Duration::from_secs(6));
        assert!(network.replies[0].contains("state kept"), "{:?}", network.replies);
        assert!(network.is_registered(ALICE));
        assert_eq!(server_name(&network, ALICE).as_deref(), Some(S1));
        assert_eq!(network.undelivered(), if answer.is_none() { 1.0 } else { 0.0 });
    }
    // Not the one that serves: its user would be lost. Nor without saying which.
    let mut network = Network::new();
    network.register(0, ALICE);
    network.command(&["rtr", ALICE, "new-server", "SCSCF1.hims.net"]);
    assert!(network.replies.pop().unwrap().contains("serves"));
    network.command(&["rtr", ALICE, "new-server"]);
    assert!(network.replies.pop().unwrap().contains("which S-CSCF"));
    assert!(network.asked.is_empty());
}

/// TS 29.228 §6.1.3.1, §6.3.1: while another S-CSCF only challenges, the one that has the registration is told.
#[test]
fn tells_the_server_that_has_the_registration() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.challenge(1, ALICE);
    network.answers = vec![SUCCESS, SUCCESS];
    network.command(&["bar", ALICE_TEL]);
    network.command(&["rtr", ALICE]);
    let told: Vec<_> = network.asked.iter().map(|(place, _)| *place).collect();
    assert_eq!(told, [0, 0]);
    assert!(!network.is_registered(ALICE));
}

/// RFC 6733 §7.1.3, TS 29.228 §6.1.3.1: what an agent on the way could not deliver is told later.
#[test]
fn an_agent_that_cannot_deliver_is_no_answer() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.answers = vec![Some(Outcome::Base(result_code::UNABLE_TO_DELIVER)), SUCCESS];
    network.command(&["rtr", ALICE]);
    assert!(network.replies[0].ends_with("told when it is back"), "{:?}", network.replies);
    assert!(!network.is_registered(ALICE));
    assert_eq!(network.undelivered(), 1.0);
    network.ask(0, Request::Lir(Lir { public_identity: BOB_SIP.into(), ..Lir::default() }));
    assert_eq!(network.asked.len(), 2);
    assert_eq!(network.undelivered(), 0.0);
}

fn profile(network: &Network, media: u32) -> bool {
    let database = network.hss.database();
    let profile = Profile {
        name: "default".into(),
        subscribed_media_profile_id: Some(media),
        ..Profile::default()
    };
    let is_changed = database.procedure(|| provision::put_profile(database, &profile)).unwrap();
    database.commit().unwrap();
    is_changed
}

fn addresses(name: &str) -> [Option<String>; 4] {
    ["ecf1", "ecf2", "ccf1", "ccf2"].map(|host| Some(format!("aaa://{host}.{name}.net")))
}

fn charging(network: &Network, user_name: &str, name: &str, addresses: [Option<String>; 4]) {
    let database = network.hss.database();
    database
        .procedure(|| {
            let row = ChargingAddresses { name: name.to_owned(), addresses };
            provision::put_charging(database, &row)?;
            provision::set_charging(database, user_name, Some(name))
        })
        .unwrap();
    database.commit().unwrap();
}

/// TS 29.228 §6.2.2.1: only what changed is pushed, once.
#[test]
fn pushes_a_change_only() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.command(&["ppr", ALICE]);
    assert_eq!(network.replies.pop().unwrap(), format!("{ALICE}: unchanged"));
    network.command(&["push"]);
    assert_eq!(network.replies.pop().unwrap(), "0 sets told, 0 not");
    assert!(network.asked.is_empty());
    assert!(profile(&network, 7));
    assert!(!profile(&network, 7), "it is the same");
    network.answers = vec![SUCCESS];
    network.command(&["push"]);
    assert_eq!(network.replies.pop().unwrap(), "1 sets told, 0 not");
    let pushed = ppr(&network, 0);
    assert_eq!((&pushed.user_name[..], &pushed.charging_information), (ALICE, &None));
    let user_data = UserData::parse(pushed.user_data.as_ref().unwrap()).unwrap();
    assert_eq!(user_data.service_profiles[0].subscribed_media_profile_id, Some(7));
    assert_eq!(refresh(&mut network, ALICE), (false, false));
    for words in [&["ppr", ALICE][..], &["push"], &["bar", TEMPORARY]] {
        network.command(words);
    }
    assert_eq!(network.replies[2], format!("{TEMPORARY}: barred\n{ALICE}: unchanged"));
    assert_eq!(network.asked.len(), 1);
    // Whoever is not registered hears nothing, and who comes gets what there is now.
    profile(&network, 8);
    assert_eq!(refresh(&mut network, ALICE), (true, false));
    network.command(&["push"]);
    assert_eq!(network.asked.len(), 1);
}

/// TS 29.228 §6.2.2.1: a change while a PPR is under way is not what its answer is about.
#[test]
fn a_change_during_a_push_stays_due() {
    let mut network = Network::new();
    network.register(0, ALICE);
    profile(&network, 7);
    network.command(&["push"]);
    profile(&network, 8);
    network.answer_late(Outcome::SUCCESS);
    assert_eq!(network.replies, ["1 sets told, 0 not"]);
    assert_eq!(refresh(&mut network, ALICE), (true, false));
}

/// TS 29.228 table 6.2.2.1, TS 29.229 §6.3.19: all addresses; alone, and with a profile that changed too.
#[test]
fn pushes_charging_addresses() {
    for has_user_data in [false, true] {
        let mut network = Network::new();
        network.register(0, ALICE);
        charging(&network, ALICE, "gold", addresses("gold"));
        if has_user_data {
            profile(&network, 7);
        }
        network.answers = vec![SUCCESS];
        network.command(&["ppr", ALICE]);
        assert_eq!(network.replies, [format!("{ALICE}: done")]);
        let pushed = ppr(&network, 0);
        assert_eq!(pushed.user_data.is_some(), has_user_data);
        assert_eq!(count(&network.wire[0], b"<IMSSubscription>"), usize::from(has_user_data));
        let uris = addresses("gold").map(Option::unwrap);
        let group: Vec<u8> =
            (619..).zip(&uris).flat_map(|(code, uri)| avp(code, 0xc0, uri.as_bytes())).collect();
        assert_eq!(count(&network.wire[0], &avp(618, 0xc0, &group)), 1);
        assert_eq!(refresh(&mut network, ALICE), (false, false));
        network.command(&["ppr", ALICE]);
        assert!(network.replies[1].ends_with("unchanged"));
    }
    // Not answered: with the next SAR. And withdrawn: the S-CSCF hears that there are none.
    let mut network = Network::new();
    network.register(0, ALICE);
    charging(&network, ALICE, "gold", addresses("gold"));
    network.command(&["ppr", ALICE]);
    network.wait(Duration::from_secs(6));
    assert_eq!(refresh(&mut network, ALICE), (true, true));
    charging(&network, ALICE, "gold", [None, None, None, None]);
    network.answers = vec![SUCCESS];
    network.command(&["push"]);
    let empty = Some(ChargingInformation::default());
    assert_eq!(ppr(&network, 1).charging_information, empty);
    assert_eq!(ppr(&network, 1).user_data, None);
    // And so it does where nobody pushes.
    for addresses in [addresses("gold"), [None, None, None, None]] {
        charging(&network, ALICE, "gold", addresses);
        assert_eq!(refresh(&mut network, ALICE), (true, true));
        assert_eq!(refresh(&mut network, ALICE), (false, false));
    }
}

/// TS 29.228 §6.2.2.1: what each failure leaves, in the database and for the operator.
#[test]
fn a_push_that_fails_says_what_is_left() {
    let later = "; given when the S-CSCF asks next";
    let cases: [(Option<Outcome>, &str, bool, bool); 6] = [
        (None, later, true, true),
        (Some(Outcome::Base(result_code::UNABLE_TO_DELIVER)), later, true, true),
        (Some(Outcome::Base(result_code::TOO_BUSY)), later, true, true),
        (Some(Outcome::UNABLE_TO_COMPLY), later, true, true),
        (Some(Outcome::NOT_SUPPORTED_USER_DATA), "; it keeps the profile it has", true, false),
        (Some(Outcome::USER_UNKNOWN), "; not registered there any more", false, false),
    ];
    for (answer, told, is_registered, is_due) in cases {
        let mut network = Network::new();
        network.register(0, ALICE);
        profile(&network, 7);
        network.answers = vec![answer];
        network.command(&["ppr", ALICE]);
        network.wait(Duration::from_secs(6));
        assert!(network.replies[0].ends_with(told), "{answer:?}: {:?}", network.replies);
        assert_eq!(network.is_registered(ALICE), is_registered, "{answer:?}");
        network.command(&["status", ALICE]);
        let status = network.replies.pop().unwrap();
        assert_eq!(status.contains("S-CSCF not told of a change"), is_due, "{status}");
        let is_unusable = answer == Some(Outcome::NOT_SUPPORTED_USER_DATA);
        assert_eq!(status.contains("S-CSCF cannot use the profile"), is_unusable, "{status}");
        if is_registered {
            assert_eq!(refresh(&mut network, ALICE), (is_due, false), "{answer:?}");
        }
        if is_unusable {
            // The operator may try once more.
            network.answers = vec![SUCCESS];
            network.command(&["ppr", ALICE]);
            network.command(&["status", ALICE]);
            assert!(!network.replies.pop().unwrap().contains("cannot use"));
        }
    }
    // Of many, one that is silent is not waited for again and again, and others are told.
    let mut network = Network::new();
    network.register(0, ALICE);
    let mut work = sar(ALICE, S1, ServerAssignmentType::Registration);
    work.public_identities = vec![WORK.into()];
    network.ask(0, Request::Sar(work));
    let kind = ServerAssignmentType::UnregisteredUser;
    let bob = Sar { public_identities: vec![BOB_SIP.into()], ..sar(BOB, S2, kind) };
    network.ask(1, Request::Sar(bob));
    profile(&network, 7);
    charging(&network, BOB, "gold", addresses("gold"));
    network.answers = vec![None, SUCCESS];
    network.command(&["push"]);
    network.wait(Duration::from_secs(6));
    let places: Vec<_> = network.asked.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [0, 1]);
    let reply = network.replies.pop().unwrap();
    assert!(reply.starts_with("1 sets told, 2 not\n"), "{reply}");
    assert!(reply.contains("is silent"), "{reply}");
}

/// TS 29.228 §6.2.2.1, TS 23.228 §4.3.3.4: one more identity, and one less, that is not the default one.
#[test]
fn adds_and_removes_identities() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.answers = vec![SUCCESS; 3];
    network.command(&["identity", "add", HOME, ALICE_TEL]);
    assert_eq!(network.replies.pop().unwrap(), format!("{HOME}: added\n{ALICE}: done"));
    assert_eq!(identities(ppr(&network, 0)), [TEMPORARY, ALICE_SIP, ALICE_TEL, HOME]);
    let lir = || Request::Lir(Lir { public_identity: HOME.into(), ..Lir::default() });
    let Answer::Lia(lia) = network.ask(1, lir()) else { panic!() };
    assert_eq!(lia.server_name.as_deref(), Some(S1));
    network.command(&["identity", "remove", HOME]);
    assert_eq!(network.replies.pop().unwrap(), format!("{HOME}: removed\n{ALICE}: done"));
    assert_eq!(identities(ppr(&network, 1)), [TEMPORARY, ALICE_SIP, ALICE_TEL]);
    assert_eq!(network.ask(1, lir()).outcome(), Outcome::USER_UNKNOWN);
    assert!(network.is_registered(ALICE));
    // With another profile, and barred; in a set that nobody has registered.
    network.command(&["identity", "add", &format!("!{HOME}"), ALICE_SIP, "voicemail"]);
    let user_data = UserData::parse(ppr(&network, 2).user_data.as_ref().unwrap()).unwrap();
    assert_eq!(user_data.service_profiles.len(), 2);
    assert!(user_data.service_profiles[1].public_identities[0].is_barred);
    network.replies.clear();
    network.command(&["identity", "add", "sip:desk@hims.net", WORK]);
    assert_eq!(network.replies.pop().unwrap(), "sip:desk@hims.net: added");
    network.command(&["identity", "remove", WORK]);
    assert_eq!(network.replies.pop().unwrap(), format!("{WORK}: removed"));
    network.command(&["identity", "remove", "sip:desk@hims.net"]);
    assert_eq!(network.replies.pop().unwrap(), "sip:desk@hims.net: removed");
    assert_eq!(network.asked.len(), 3);

    for (words, told) in [
        (["identity", "add", BOB_SIP, ALICE_SIP], "is there already"),
        (["identity", "add", "mailto:a", ALICE_SIP], "is not a sip or tel URI"),
        (["identity", "add", HOME, "sip:nobody@hims.net"], "is not known"),
        (["identity", "add", "sip:x@hims.net", CHAT], "a set of its own"),
    ] {
        network.command(&words);
        let reply = network.replies.pop().unwrap();
        assert!(reply.contains(told), "{words:?}: {reply}");
    }
    network.command(&["identity", "add", "sip:x@hims.net", ALICE_SIP, "gone"]);
    assert!(network.replies.pop().unwrap().contains("gone is not there"));
    network.command(&["identity", "remove", "sip:chat-1@hims.net"]);
    assert!(network.replies.pop().unwrap().contains("is not known"), "not the wildcard");
    network.command(&["identity", "remove", BOB_SIP]);
    assert!(network.replies.pop().unwrap().contains("the only one"));
    assert_eq!(network.asked.len(), 3);
}

/// TS 29.228 §6.2.2.1, §6.5.2.2, TS 29.228 §6.1.3.1: the default identity does not go by PPR, and nor does the last one
/// of a set. Every device loses the registration of that set, of that alone, and then it is gone.
#[test]
fn the_default_identity_goes_by_termination() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.register(0, TABLET);
    let mut work = sar(ALICE, S1, ServerAssignmentType::Registration);
    work.public_identities = vec![WORK.into()];
    network.ask(0, Request::Sar(work));
    network.answers = vec![SUCCESS, None];
    network.command(&["identity", "remove", ALICE_SIP]);
    assert!(network.hss.database().provisioned(ALICE_SIP).unwrap().is_some(), "not yet");
    network.wait(Duration::from_secs(6));
    for (place, user_name) in [(0, ALICE), (1, TABLET)] {
        let asked = rtr(&network, place);
        assert_eq!(
            (&asked.user_name[..], asked.reason_code),
            (user_name, ReasonCode::PermanentTermination)
        );
        assert_eq!(asked.public_identities, [ALICE_SIP]);
        assert_eq!(count(&network.wire[place], &reason(0)), 1);
    }
    let reply = network.replies.pop().unwrap();
    assert!(reply.ends_with(&format!("\n{ALICE_SIP}: removed")), "{reply}");
    let all = network.hss.assignments().unwrap();
    assert!(all.iter().all(|one| one.public_identity != ALICE_SIP));
    let registered = all.iter().filter(|one| one.is_registered);
    let left: Vec<_> =
        registered.map(|one| (&one.private_identity[..], &one.public_identity[..])).collect();
    assert_eq!(left, [(ALICE, WORK)]);
    assert_eq!(network.ask(0, uar()).outcome(), Outcome::USER_UNKNOWN);
    // The last one of its set.
    network.answers = vec![SUCCESS, SUCCESS];
    network.asked.clear();
    network.command(&["identity", "remove", WORK]);
    assert_eq!(rtr(&network, 0).public_identities, [WORK]);
    assert_eq!(server_name(&network, ALICE), None);
    assert!(!network.is_registered(ALICE));
}

/// TS 29.228 §6.1.3.1: an emergency registration keeps its set, and so the identity; nobody else loses anything.
#[test]
fn an_emergency_keeps_the_default_identity() {
    for outcome in [Outcome::UNABLE_TO_COMPLY, Outcome::Base(result_code::LIMITED_SUCCESS)] {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.register(0, TABLET);
        network.emergency = vec![EmergencyRegistration {
            user_name: ALICE.to_owned(),
            public_identity: ALICE_SIP.to_owned(),
        }];
        network.answers = vec![Some(outcome), SUCCESS];
        network.command(&["identity", "remove", ALICE_SIP]);
        assert!(
            network.replies[0].ends_with("stays, its set is registered"),
            "{:?}",
            network.replies
        );
        assert!(network.is_registered(ALICE));
        assert!(network.hss.database().provisioned(ALICE_SIP).unwrap().is_some());
        let is_tablet_left = outcome == Outcome::UNABLE_TO_COMPLY;
        assert_eq!(network.is_registered(TABLET), is_tablet_left);
    }
}

/// TS 29.228 §6.1.3.1: so do services for the unregistered, by one RTR, to whoever was named to the S-CSCF.
#[test]
fn an_identity_of_the_unregistered_goes_by_termination() {
    let mut network = unregistered();
    network.answers = vec![SUCCESS, SUCCESS];
    network.command(&["identity", "add", "sip:robert@hims.net", BOB_SIP]);
    assert_eq!(identities(ppr(&network, 0)), [BOB_SIP, "sip:robert@hims.net"]);
    network.command(&["identity", "remove", BOB_SIP]);
    assert_eq!(rtr(&network, 1).public_identities, [BOB_SIP]);
    assert_eq!(network.asked.len(), 2);
    assert_eq!(server_name(&network, BOB), None);
}

/// TS 29.228 §6.1.2.1: a challenge for an identity that is taken out pins no S-CSCF.
#[test]
fn a_challenge_does_not_outlive_its_identity() {
    let mut network = Network::new();
    network.challenge(0, ALICE);
    network.command(&["identity", "remove", ALICE_SIP]);
    assert!(network.asked.is_empty());
    assert_eq!(server_name(&network, ALICE), None);
}

/// TS 23.228 §4.3.3.4: a wildcard is no default identity, so the one behind it is, and is not barred under an S-CSCF.
#[test]
fn a_wildcard_is_no_default_identity() {
    let mut network = Network::new();
    let mut carol = provision::Subscriber::new(
        "carol@hims.net",
        milenage(),
        &["sip:carol-!.*!@hims.net", "sip:carol@hims.net"],
    );
    carol.public_identities[0].identity_type = 4;
    network.hss.provision(&carol).unwrap();
    let kind = ServerAssignmentType::Registration;
    let register = Sar {
        public_identities: vec!["sip:carol@hims.net".into()],
        ..sar("carol@hims.net", S1, kind)
    };
    assert_eq!(network.ask(0, Request::Sar(register)).outcome(), Outcome::SUCCESS);
    network.command(&["bar", "sip:carol@hims.net"]);
    assert!(network.replies[0].contains("refused"), "{:?}", network.replies);
    assert!(network.asked.is_empty());
}
