//! Names of nodes, which certificates are one, and what a replacement may change.

use super::*;
use crate::tls::tests::Authority;
use tiderace_base::prng::Prng;

const ZONE: ZoneId = ZoneId::new(7);

fn name(node: u64) -> String {
    node_name(NodeId::new(node), ZONE)
}

#[test]
fn a_name_is_read_as_it_was_written() {
    let mut prng = Prng::new(1);
    for _ in 0..1000 {
        let (node, zone) = (NodeId::new(prng.next_u64()), ZoneId::new(prng.below(9)));
        assert_eq!(parse(&node_name(node, zone)), Some((node, zone)));
    }
    assert_eq!(
        name(0xab),
        "node-00000000000000ab.zone-0000000000000007.tiderace.internal"
    );
}

#[test]
fn what_is_nearly_a_name_is_none() {
    for not in [
        "client-00000000000000ab.zone-0000000000000007.tiderace.internal",
        "node-00000000000000AB.zone-0000000000000007.tiderace.internal",
        "node-ab.zone-0000000000000007.tiderace.internal",
        "node-+0000000000000ab.zone-0000000000000007.tiderace.internal",
        "node-00000000000000ab.zone-0000000000000007.tiderace.example",
        "node-00000000000000ab.zone-0000000000000007.x.tiderace.internal",
        "x.node-00000000000000ab.zone-0000000000000007.tiderace.internal",
        "node-00000000000000ab.tiderace.internal",
        "*.zone-0000000000000007.tiderace.internal",
        ".tiderace.internal",
        "",
    ] {
        assert_eq!(parse(not), None, "{not}");
    }
}

#[test]
fn a_certificate_names_one_node_or_none() {
    let authority = Authority::new();
    let [one, two] = [name(1), name(2)];
    let client = one.replace("node-", "client-");
    let pattern = "*.zone-0000000000000007.tiderace.internal";
    let identity = |names: &[&str]| {
        let signed = authority.sign_names(names);
        NodeIdentity::new(signed.identity(), authority.ca.as_bytes(), None)
    };
    let both = identity(&[&one, "host.example"]).expect("other names do not matter");
    assert_eq!((both.node(), both.zone()), (NodeId::new(1), ZONE));
    for names in [
        &["host.example"][..],
        &[&one, &two],
        &[&client],
        &[&client, &one],
        &[pattern],
        &[pattern, &one],
    ] {
        assert_eq!(identity(names).expect_err("none"), TlsError::NotANode);
    }
}

#[test]
fn a_replacement_names_the_same_node() {
    let authority = Authority::new();
    let identity = |node| {
        let signed = authority.sign(&name(node));
        NodeIdentity::new(signed.identity(), authority.ca.as_bytes(), None).expect("usable")
    };
    let current = CurrentIdentity::new(identity(1));
    let refused = current.replace(identity(2)).expect_err("another node");
    assert!(refused.to_string().contains(&name(2)), "{refused}");
    assert_eq!(current.version(), 0);
    current.replace(identity(1)).expect("the same node");
    assert_eq!(current.version(), 1);
}
