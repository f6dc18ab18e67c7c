//! The associations of one phone, as its bearer and the kernel of the P-CSCF see them.

use std::collections::BTreeSet;
use std::time::Duration;

use common::cx::Answer;
use common::diameter::message::Message;
use common::ipsec::sa::{Integrity, SaSet};
use common::limits::Limits;
use scenarios::{Function, Phone as Kind, Standing, World as _};
use sim::ims::{Ims, Life, Options};

/// What the kernel of the P-CSCF holds.
fn sets(ims: &Ims) -> Vec<SaSet> {
    let pcscf = ims.world.member("pcscf");
    let kernel = ims.world.members[pcscf].kernel.as_ref().expect("a kernel with ESP");
    kernel.sets().cloned().collect()
}

fn run(ims: &mut Ims, seconds: u64) {
    let until = ims.world.now + Duration::from_secs(seconds);
    ims.world.run(until, |_| false);
}

/// A phone that registers and hears of it, with what was said meanwhile.
fn registered(options: Options) -> (Ims, usize) {
    let mut ims = Ims::new(11, options);
    let ue = ims.add_changed(|config| {
        if !options.is_tcp {
            // Short enough for a datagram.
            config.instance_id = None;
        }
    });
    ims.world.is_recording = true;
    ims.register(ue);
    ims.until("the document of its registration", Duration::from_secs(10), &mut |world| {
        world.standing(ue) == Standing::Registered && world.notified(ue) == 1
    })
    .expect("a registration");
    run(&mut ims, 3);
    (ims, ue)
}

/// TS 24.229 §5.2.2.2, TS 33.203 §7.1: S-10, S-64, S-77: a whole set stands before the challenge leaves, and before the
/// phone answers it; one that nobody answers ends after 240 s.
#[test]
fn a_set_stands_before_the_challenge_leaves() {
    let mut ims = Ims::new(11, Options::default());
    ims.add(Kind::Good);
    let user = format!("001010000000001@{}", sim::ims::HOME);
    let got = super::answers(&mut ims, super::first_register(&user));
    let challenge = got.first().expect("a 401");
    let [set] = &sets(&ims)[..] else { panic!("one set") };
    for (name, value) in [
        ("spi-c", set.spis.pc),
        ("spi-s", set.spis.ps),
        ("port-c", set.ports.pc.into()),
        ("port-s", set.ports.ps.into()),
    ] {
        assert!(challenge.contains(&format!("{name}={value}")), "{name} {value} in {challenge}");
    }
    // As they were offered.
    let of_ue = (set.spis.uc, set.spis.us, set.ports.uc, set.ports.us);
    assert_eq!(of_ue, (90_001, 90_002, 40_001, 40_002));
    let lines = ims.world.ladder.tail(200);
    let place = |what: &str| lines.find(what).unwrap_or_else(|| panic!("{what} in {lines}"));
    assert!(place("pcscf .. installs set") < place("pcscf -> ue1     401 to REGISTER"));
    // Five seconds have passed.
    run(&mut ims, 234);
    assert_eq!(sets(&ims).len(), 1);
    run(&mut ims, 2);
    assert_eq!(sets(&ims).len(), 0);
}

/// TS 33.203 §7.1: S-71, S-72, S-73, S-74, S-80: which association carries what. Over UDP two of the four carry everything:
/// requests of the phone and its responses from port_uc, what comes to it to port_us. Over TCP a response goes
/// where its request came from: all four are used.
#[test]
fn four_associations_and_what_they_carry() {
    for is_tcp in [false, true] {
        let options = Options { is_tcp, is_choice_announced: true, ..Options::default() };
        let (mut ims, ue) = registered(options);
        if is_tcp {
            // What the network has to say comes on a connection of its own.
            ims.world.command_after(ue, "close connections", Duration::ZERO);
            run(&mut ims, 1);
            let impi = ims.private_identity(ue);
            ims.command(Function::Scscf1, &["reauthenticate", &impi, "600"]);
            run(&mut ims, 3);
            assert_eq!(ims.notified(ue), 2);
        }
        let [set] = &sets(&ims)[..] else { panic!("one set") };
        let seen: BTreeSet<(bool, u32)> = ims
            .world
            .esp
            .iter()
            .filter(|(of, ..)| *of == ue)
            .map(|(_, goes_up, spi)| (*goes_up, *spi))
            .collect();
        let (up, down) = (true, false);
        let mut wanted = vec![(up, set.spis.ps), (down, set.spis.us)];
        if is_tcp {
            wanted.extend([(down, set.spis.uc), (up, set.spis.pc)]);
        }
        assert_eq!(seen, wanted.into_iter().collect(), "TCP: {is_tcp}; {:?}", set.spis);
    }
}

/// TS 33.203 §7.1, Annex I: S-63, S-75, S-76: four associations between the ports of both, each with an SPI of its receiver, and one
/// pair of keys, which are CK and IK of the vector.
#[test]
fn four_associations_with_one_pair_of_keys() {
    let (ims, ue) = registered(Options::default());
    let [set] = &sets(&ims)[..] else { panic!("one set") };
    let (ports, spis) = (set.ports, set.spis);
    let four: BTreeSet<_> = set
        .associations()
        .iter()
        .map(|one| (one.source.port(), one.destination.port(), one.spi, one.is_inbound))
        .collect();
    let wanted = [
        (ports.uc, ports.ps, spis.ps, true),
        (ports.ps, ports.uc, spis.uc, false),
        (ports.pc, ports.us, spis.us, false),
        (ports.us, ports.pc, spis.pc, true),
    ];
    assert_eq!(four, wanted.into_iter().collect());
    let distinct = BTreeSet::from([spis.uc, spis.us, spis.pc, spis.ps]);
    assert!(distinct.len() == 4 && distinct.iter().all(|spi| *spi > 255), "{spis:?}");
    assert_eq!(ims.world.phones[ue].inbound_spis(), [spis.uc, spis.us]);

    let item = ims
        .world
        .diameter
        .iter()
        .filter_map(|(.., bytes)| Message::decode(bytes.clone(), &Limits::default()).ok())
        .filter(|message| message.header.application != 0 && !message.header.is_request())
        .find_map(|message| match Answer::decode(&message) {
            Ok(Answer::Maa(maa)) => maa.items.first().cloned(),
            _ => None,
        })
        .expect("a vector");
    let (ck, ik) = (item.confidentiality_key.expect("CK"), item.integrity_key.expect("IK"));
    assert_eq!(set.keys.ck.expose(), ck.expose());
    assert_eq!(set.keys.ik.expose(), ik.expose());
    assert_eq!(set.integrity, Integrity::HmacSha1_96);
    let key = set.integrity_key().expect("a key");
    assert_eq!(key.expose()[..16], ik.expose()[..]);
    assert_eq!(key.expose()[16..], [0; 4], "32 zero bits for SHA-1");
}

/// TS 33.203 §7.4: S-77: an established set lives as long as its registration, and 30 s more.
#[test]
fn a_set_outlives_its_registration_by_thirty_seconds() {
    let life = Life { seconds: 600, ..Life::default() };
    let mut ims = Ims::new(11, Options { life, ..Options::default() });
    let ue = ims.add(Kind::Good);
    ims.register(ue);
    let registered = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
    ims.until("registered", Duration::from_secs(10), &mut { registered }).expect("a registration");
    let left = |ims: &mut Ims| {
        let registrations = ims.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]);
        (registrations, sets(ims).len())
    };
    // The registration began within the last second.
    run(&mut ims, 598);
    assert_eq!(left(&mut ims), (1.0, 1));
    run(&mut ims, 30);
    assert_eq!(left(&mut ims), (0.0, 1));
    run(&mut ims, 3);
    assert_eq!(left(&mut ims), (0.0, 0));
}

/// TS 33.203 §7.4: S-101: an initial registration leaves no set of before: its 200 ends them at once.
#[test]
fn an_initial_registration_ends_older_sets() {
    let (mut ims, ue) = registered(Options::default());
    let [old] = &sets(&ims)[..] else { panic!("one set") };
    ims.world.command_after(ue, "forget", Duration::ZERO);
    run(&mut ims, 1);
    let completed = ims.completed(ue);
    ims.register(ue);
    ims.until("registered", Duration::from_secs(10), &mut |world| world.completed(ue) > completed)
        .expect("a registration");
    let [new] = &sets(&ims)[..] else { panic!("one set") };
    assert_ne!(new.id, old.id);
}

fn refresh(ims: &mut Ims, ue: usize) {
    let completed = ims.completed(ue);
    ims.reregister(ue);
    ims.until("refreshed", Duration::from_secs(10), &mut |world| world.completed(ue) > completed)
        .expect("a refresh");
}

/// TS 33.203 §7.4, TS 24.229 §5.1.1.5.1: S-79, S-104: a challenge inside the association brings a set of its own: other SPIs,
/// another port_uc, the same port_us. The old one is kept for 64·T1 of Gm from the first message on the new one.
#[test]
fn a_challenged_refresh_brings_another_set() {
    let life = Life { reauthenticate: "every 2", ..Life::default() };
    let (mut ims, ue) = registered(Options { life, ..Options::default() });
    let [old] = &sets(&ims)[..] else { panic!("one set") };
    for _ in 0..3 {
        if sets(&ims).len() == 1 {
            refresh(&mut ims, ue);
            run(&mut ims, 3);
        }
    }
    let both = sets(&ims);
    let new = both.iter().find(|set| set.id != old.id).expect("another set");
    assert_eq!(both.len(), 2);
    assert_eq!(new.ports.us, old.ports.us);
    assert_eq!(new.ports.ps, old.ports.ps);
    assert_ne!(new.ports.uc, old.ports.uc);
    let spis = |set: &SaSet| BTreeSet::from([set.spis.uc, set.spis.us, set.spis.pc, set.spis.ps]);
    assert!(spis(new).is_disjoint(&spis(old)), "{:?} {:?}", new.spis, old.spis);
    assert_ne!(new.keys, old.keys);
    refresh(&mut ims, ue);
    let began = ims.world.now;
    let is_there = |ims: &Ims| sets(ims).iter().any(|set| set.id == old.id);
    while is_there(&ims) && ims.world.now.since(began) < Duration::from_secs(300) {
        run(&mut ims, 1);
    }
    let lived = ims.world.now.since(began).as_secs();
    assert!((125..=130).contains(&lived), "{lived} s");
}
