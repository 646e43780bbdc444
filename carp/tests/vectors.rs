//! Every vector of `data/carp-vectors.json`, made by another implementation in another language; those
//! of the draft's four `published` members are also printed in a book (Wessels, Web Caching, app. C).
//! Whoever writes this crate anew in another language has to pass them too.

use std::fmt::Write as _;

use carp::draft::{self, Draft, MembershipTable};
use carp::slots::{self, Contender};
use carp::{Array, Change, Member, MemberId, Slot, SlotBits, plan};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash64;

fn vectors() -> Value {
    serde_json::from_str(include_str!("data/carp-vectors.json")).unwrap()
}

/// The vectors at a path; never none, so that no test passes over an empty list.
fn list(path: &str) -> Vec<Value> {
    let all = vectors();
    let list = all.pointer(path).unwrap_or_else(|| panic!("{path} is gone")).as_array().unwrap();
    assert!(!list.is_empty(), "{path} is empty");
    list.clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn hex32(value: &Value) -> u32 {
    u32::from_str_radix(text(value), 16).unwrap()
}

fn hex64(value: &Value) -> u64 {
    u64::from_str_radix(text(value), 16).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|one| text(one).to_owned()).collect()
}

/// The bytes of a vector: as text, or in hexadecimal.
fn input(vector: &Value) -> Vec<u8> {
    if let Some(text) = vector["in"].as_str() {
        return text.as_bytes().to_vec();
    }
    let hex = text(&vector["in_hex"]);
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn draft_key_hash() {
    for vector in list("/draft/key_hash") {
        assert_eq!(draft::key_hash(&input(&vector)), hex32(&vector["hash"]), "{vector}");
    }
}

#[test]
fn draft_member_hash() {
    for vector in list("/draft/member_hash") {
        assert_eq!(draft::member_hash(text(&vector["name"])), hex32(&vector["hash"]), "{vector}");
    }
}

#[test]
fn draft_combine() {
    for vector in list("/draft/combine") {
        let combined = draft::combine(hex32(&vector["key_hash"]), hex32(&vector["member_hash"]));
        assert_eq!(combined, hex32(&vector["combined"]), "{vector}");
    }
}

/// Two names whose hashes differ only in the top bit draw the same for every key.
#[test]
fn draft_collision_gives_all_to_the_lower_name() {
    let vector = &vectors()["draft"]["collision"];
    let names = texts(&vector["names"]);
    let key = draft::key_hash(b"user:0000001");
    for (name, combined) in names.iter().zip(texts(&vector["combined_for_key_user:0000001"])) {
        let ours = draft::combine(key, draft::member_hash(name));
        assert_eq!(format!("{ours:08x}"), combined);
    }
    let lower = names.iter().min().unwrap();
    for members in [[(&*names[0], 1), (&*names[1], 1)], [(&*names[1], 1), (&*names[0], 1)]] {
        let draft = Draft::new(&members).unwrap();
        for number in 0..100 {
            assert_eq!(draft.owner(format!("user:{number:07}").as_bytes()).name, *lower);
        }
    }
}

#[test]
fn draft_multipliers() {
    let tolerance = vectors()["draft"]["tolerance"].as_f64().unwrap();
    for vector in list("/draft/multipliers") {
        let loads: Vec<u32> = serde_json::from_value(vector["load_factors"].clone()).unwrap();
        let wanted: Vec<f64> = serde_json::from_value(vector["x_f64"].clone()).unwrap();
        let ours = draft::multipliers(&loads);
        assert_eq!(ours.len(), wanted.len());
        for (ours, wanted) in ours.iter().zip(&wanted) {
            assert!((ours - wanted).abs() <= tolerance, "{loads:?}: {ours}, not {wanted}");
        }
        let product: f64 = ours.iter().product();
        assert!((product - vector["product"].as_f64().unwrap()).abs() <= tolerance);
    }
}

#[test]
fn draft_routes() {
    for array in list("/draft/routes") {
        let members = array["members"].as_array().unwrap();
        let members: Vec<(&str, u32)> = members
            .iter()
            .map(|member| (text(&member["name"]), member["load_factor"].as_u64().unwrap() as u32))
            .collect();
        let draft = Draft::new(&members).unwrap();
        for vector in array["routes"].as_array().unwrap() {
            let key = text(&vector["key"]).as_bytes();
            let hash = draft::key_hash(key);
            for (at, member) in draft.members().iter().enumerate() {
                assert_eq!(draft::combine(hash, member.hash), hex32(&vector["combined"][at]));
                let floor = vector["scores_floor"][at].as_u64().unwrap();
                assert_eq!(member.score(hash).floor() as u64, floor, "{vector}");
            }
            let rank: Vec<&str> = draft.rank(key).iter().map(|one| one.name.as_str()).collect();
            assert_eq!(rank, texts(&vector["rank"]), "{vector}");
            assert_eq!(draft.owner(key).name, rank[0]);
        }
    }
}

#[test]
fn draft_counts() {
    let vector = &vectors()["draft"]["counts_100000_keys_user:%07d"];
    let names = texts(&vector["members"]);
    let members: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let draft = Draft::new(&members).unwrap();
    let mut counts = vec![0u64; names.len()];
    for number in 0..100_000 {
        let owner = &draft.owner(format!("user:{number:07}").as_bytes()).name;
        counts[names.iter().position(|name| name == owner).unwrap()] += 1;
    }
    assert_eq!(Value::from(counts), vector["counts"]);
}

/// Squid chains the hash of the key from peer to peer; we must not.
#[test]
fn squid_s_chained_hash_is_told_apart() {
    let vector = &vectors()["draft"]["squid_since_2011_chained_key_hash"];
    let key = text(&vector["key"]);
    let chained = texts(&vector["per_peer_in_weight_order"]);
    for (peer, hash) in chained.iter().enumerate() {
        let repeated = key.repeat(peer + 1);
        assert_eq!(format!("{:08x}", draft::key_hash(repeated.as_bytes())), *hash);
        assert_eq!(
            peer == 0,
            draft::key_hash(key.as_bytes()) == draft::key_hash(repeated.as_bytes())
        );
    }
}

#[test]
fn membership_table_text() {
    let vector = &vectors()["membership_table_text"];
    let wanted = &vector["parsed"];
    let table = MembershipTable::parse(text(&vector["text"]).as_bytes()).unwrap();
    assert_eq!(wanted["version"], "1.0");
    assert_eq!(wanted["enabled"], table.enabled);
    assert_eq!(wanted["config_id"], table.config_id);
    assert_eq!(wanted["array_name"], table.array_name);
    assert_eq!(wanted["list_ttl_seconds"], table.list_ttl_s);
    let members = wanted["members"].as_array().unwrap();
    assert_eq!(members.len(), table.members.len());
    for (wanted, member) in members.iter().zip(&table.members) {
        assert_eq!(wanted["name"], member.name);
        assert_eq!(wanted["addr"], member.address);
        assert_eq!(wanted["port"], member.port);
        assert_eq!(wanted["table_url"], member.table_url);
        assert_eq!(wanted["agent"], member.agent);
        assert_eq!(wanted["state_time_s"], member.state_time_s);
        assert_eq!(wanted["up"], member.up);
        assert_eq!(wanted["load_factor"], member.load_factor);
        assert_eq!(wanted["cache_mb"], member.cache_mb);
    }
    assert_eq!(table.to_text().unwrap(), text(&vector["text"]));
}

#[test]
fn xxh64() {
    for vector in list("/table/xxh64") {
        let hash = XxHash64::oneshot(vector["seed"].as_u64().unwrap(), &input(&vector));
        assert_eq!(hash, hex64(&vector["hash"]), "{vector}");
    }
}

#[test]
fn slot_of_key() {
    assert_eq!(vectors()["table"]["slot_bits"], SlotBits::DEFAULT.bits());
    for vector in list("/table/slot_of_key") {
        let slot = SlotBits::DEFAULT.slot_of(text(&vector["key"]).as_bytes(), 0);
        assert_eq!(vector["slot"], slot.0, "{vector}");
    }
}

#[test]
fn member_hash() {
    for vector in list("/table/member_hash") {
        assert_eq!(slots::member_hash(text(&vector["id"])), hex64(&vector["hash"]), "{vector}");
    }
}

#[test]
fn slot_hash() {
    for vector in list("/table/slot_hash") {
        let slot = Slot(vector["slot"].as_u64().unwrap() as u16);
        assert_eq!(slots::slot_hash(slot), hex64(&vector["hash"]), "{vector}");
    }
}

#[test]
fn neg_log2() {
    for vector in list("/table/neglog2_q32") {
        assert_eq!(vector["out"], slots::neg_log2(hex64(&vector["in"])), "{vector}");
    }
}

#[test]
fn draw() {
    for vector in list("/table/draw") {
        let slot = Slot(vector["slot"].as_u64().unwrap() as u16);
        let draw = slots::draw(slot, slots::member_hash(text(&vector["member"])));
        assert_eq!(draw, hex64(&vector["draw"]), "{vector}");
        assert_eq!(vector["neglog2_q32"], slots::neg_log2(draw), "{vector}");
    }
}

#[test]
fn rank() {
    let member = |n: u32| Member { weight: n, ..Member::new(id(&format!("cluster-{n}")), vec![]) };
    let array = Array::fresh("kv", SlotBits::DEFAULT, 0, (1..=3).map(member).collect()).unwrap();
    for vector in list("/table/rank_weights_1_2_3") {
        let slot = Slot(vector["slot"].as_u64().unwrap() as u16);
        let rank: Vec<&str> = array.rank(slot, 3).iter().map(|one| one.id.as_str()).collect();
        assert_eq!(rank, texts(&vector["rank"]), "{vector}");
    }
}

/// All six tables, byte for byte: three from nothing or from a drain, three by a change.
#[test]
fn tables() {
    let tables = list("/table/tables");
    let name = |at: usize| text(&tables[at]["name"]);
    assert_eq!(tables.len(), 6);

    assert_eq!(name(0), "fresh: 3 equal");
    let fresh = founded(&tables[0]);
    check(&tables[0], &ids(&fresh));

    assert_eq!(name(1), "then add cluster-4");
    let mut four = fresh.clone();
    let plan = four.plan(Change::Add(Member::new(id("cluster-4"), vec![]))).unwrap();
    assert_eq!((plan.moved(), plan.least()), (4096, 4096));
    four.apply_plan(&plan).unwrap();
    check(&tables[1], &ids(&four));

    assert_eq!(name(2), "then drain cluster-4 (weight 0)");
    let mut drained = four.clone();
    let plan = drained.plan(Change::Drain(id("cluster-4"))).unwrap();
    assert_eq!(Value::from(plan.moved()), tables[2]["moved_slots"]);
    drained.apply_plan(&plan).unwrap();
    check(&tables[2], &ids(&drained));
    assert_eq!(ids(&drained), ids(&fresh));

    assert_eq!(name(3), "from 4 equal: weight of cluster-2 set to 3");
    let mut heavier = four.clone();
    let plan = heavier.plan(Change::Weight(id("cluster-2"), 3)).unwrap();
    assert_eq!(Value::from(plan.moved()), tables[3]["moved_slots"]);
    heavier.apply_plan(&plan).unwrap();
    check(&tables[3], &ids(&heavier));

    // An array only removes a member that owns nothing; the planner below it takes any list.
    assert_eq!(name(4), "from 4 equal: cluster-1 removed from the list");
    let left: Vec<&str> =
        tables[4]["members"].as_array().unwrap().iter().map(|m| text(&m["id"])).collect();
    let contenders: Vec<Contender<'_>> = left.iter().map(|id| Contender::new(id, 1)).collect();
    let place = |owner: &String| left.iter().position(|id| id == owner).map(|at| at as u16);
    let owners: Vec<Option<u16>> = ids(&four).iter().map(place).collect();
    let table = plan::assign(SlotBits::DEFAULT, &owners, &contenders).unwrap();
    let removed: Vec<String> = table.iter().map(|at| left[usize::from(*at)].to_owned()).collect();
    let moved = removed.iter().zip(ids(&four)).filter(|(after, before)| *after != before).count();
    assert_eq!(Value::from(moved), tables[4]["moved_slots"]);
    check(&tables[4], &removed);

    assert_eq!(name(5), "fresh: weights 1,1,2,4");
    check(&tables[5], &ids(&founded(&tables[5])));
}

#[test]
fn table_counts() {
    let counts = &vectors()["table"]["counts_100000_keys_user:%07d_fresh_3"];
    let members = (1..=3).map(|n| Member::new(id(&format!("cluster-{n}")), vec![])).collect();
    let array = Array::fresh("kv", SlotBits::DEFAULT, 0, members).unwrap();
    for member in array.members() {
        let keys = (0..100_000).map(|number| format!("user:{number:07}"));
        let owned = keys.filter(|key| array.route(key.as_bytes()).member == member).count();
        assert_eq!(counts[member.id.as_str()], owned);
    }
}

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn founded(vector: &Value) -> Array {
    let text = serde_json::json!({ "carp": 2, "name": "kv", "members": vector["members"] });
    Array::found_from_json(text.to_string().as_bytes()).unwrap()
}

/// The owner of each slot, by name.
fn ids(array: &Array) -> Vec<String> {
    array.slots().all().map(|slot| array.owner(slot).unwrap().id.to_string()).collect()
}

fn check(vector: &Value, owners: &[String]) {
    let name = &vector["name"];
    assert_eq!(owners[..16], texts(&vector["first_16_owners"]), "{name}");
    for (id, slots) in vector["slots_per_member"].as_object().unwrap() {
        assert_eq!(*slots, owners.iter().filter(|owner| *owner == id).count(), "{name}: {id}");
    }
    let digest = Sha256::digest(owners.join("\n").as_bytes());
    let hex = digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    assert_eq!(text(&vector["sha256_of_owner_ids_joined_by_newline"]), hex, "{name}");
}
