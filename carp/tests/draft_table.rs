//! The text form of the draft's table: what is written can be read, and faults name line and field.

use carp::draft::table::TEXT_BYTES_MAX;
use carp::draft::{DraftFault, MembershipTable, TableFault, TableMember};
use proptest::prelude::*;

const HEAD: &str = "Proxy Array Information/1.0\r\nArrayEnabled: 1\r\nConfigID: 7\r\n\
                    ArrayName: kv\r\nListTTL: 600\r\n\r\n";
const MEMBER: &str = "one 10.0.0.1 7001 http://10.0.0.1/t agent/1 60 UP 100 0\r\n";

fn parse(text: &str) -> Result<MembershipTable, TableFault> {
    MembershipTable::parse(text.as_bytes())
}

fn good() -> MembershipTable {
    parse(&format!("{HEAD}{MEMBER}")).unwrap()
}

/// The fault of the good text in which `from` stands as `to`.
fn fault(from: &str, to: &str) -> TableFault {
    let text = format!("{HEAD}{MEMBER}");
    assert!(text.contains(from), "{from}");
    parse(&text.replacen(from, to, 1)).expect_err("the change is a fault")
}

#[test]
fn bare_line_feeds_are_read_too() {
    assert_eq!(parse(&format!("{HEAD}{MEMBER}").replace('\r', "")), Ok(good()));
}

#[test]
fn faults_name_line_and_field() {
    let field = |line, field| TableFault::Field { line, field };
    assert_eq!(fault("/1.0", "/2.0"), TableFault::Version("2.0".into()));
    assert_eq!(fault("Proxy", "proxy"), TableFault::NotATable);
    assert_eq!(fault("Enabled: 1", "Enabled: 2"), field(2, "ArrayEnabled"));
    assert_eq!(fault("ConfigID: 7", "ConfigID: 4294967296"), field(3, "ConfigID"));
    assert_eq!(fault("ConfigID: 7", "ConfigID: +7"), field(3, "ConfigID"));
    assert_eq!(fault("ArrayName", "Array"), field(4, "ArrayName"));
    assert_eq!(fault("600", "ten"), field(5, "ListTTL"));
    assert_eq!(fault("600\r\n\r\n", "600\r\n"), field(6, "empty line"));
    assert_eq!(fault(" 7001", " 70000"), field(7, "port"));
    assert_eq!(fault(" 7001", "  7001"), field(7, "port"));
    assert_eq!(fault("UP", "up"), field(7, "state"));
    assert_eq!(fault(" 100 ", " 0 "), field(7, "load factor"));
    assert_eq!(fault(" 0\r\n", "\r\n"), field(7, "cache size"));
    assert_eq!(fault(" 0\r\n", " 0 0\r\n"), field(7, "end of line"));
    assert_eq!(parse(""), Err(TableFault::Ends { line: 1 }));
    assert_eq!(parse("Proxy Array Information/1.0\r\n"), Err(TableFault::Ends { line: 2 }));
    assert_eq!(parse(HEAD.trim_end()), Err(TableFault::Ends { line: 6 }));
    assert_eq!(MembershipTable::parse(&[0xff; 9]), Err(TableFault::NotText));
    assert_eq!(parse(&" ".repeat(TEXT_BYTES_MAX + 1)), Err(TableFault::TooLong));
    assert_eq!(parse(&format!("{HEAD}{}", MEMBER.repeat(1025))), Err(TableFault::TooManyMembers));
}

#[test]
fn a_table_routes_by_its_load_factors_also_to_members_that_are_down() {
    let two = MEMBER.replace("one", "two").replace("UP 100", "DOWN 300");
    let draft = parse(&format!("{HEAD}{MEMBER}{two}")).unwrap().draft().unwrap();
    let x: Vec<f64> = draft.members().iter().map(|member| member.multiplier).collect();
    assert_eq!(x, carp::draft::multipliers(&[1, 3]));
    assert_eq!(parse(HEAD).unwrap().draft(), Err(DraftFault::NoMembers));
}

#[test]
fn texts_that_could_not_be_read_again_are_not_written() {
    type Spoil = fn(&mut MembershipTable);
    let cases: [(&'static str, Spoil); 5] = [
        ("ArrayName", |table| table.array_name = "k\nv".into()),
        ("name", |table| table.members[0].name = "a b".into()),
        ("agent", |table| table.members[0].agent = String::new()),
        ("table URL", |table| table.members[0].table_url = "x\r\nevil".into()),
        ("load factor", |table| table.members[0].load_factor = 0),
    ];
    for (field, spoil) in cases {
        let mut table = good();
        spoil(&mut table);
        assert_eq!(table.to_text(), Err(TableFault::Unwritable(field)));
    }
}

fn members() -> impl Strategy<Value = TableMember> {
    let word = "[!-~]{1,12}";
    (word, word, any::<u16>(), word, word, any::<(u32, bool, u32)>(), 1..=u32::MAX).prop_map(
        |(name, address, port, table_url, agent, (state_time_s, up, cache_mb), load_factor)| {
            TableMember {
                name,
                address,
                port,
                table_url,
                agent,
                state_time_s,
                up,
                load_factor,
                cache_mb,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        enabled: bool,
        config_id: u32,
        array_name in "([!-~]([ -~]{0,9}[!-~])?)?",
        list_ttl_s: u32,
        members in proptest::collection::vec(members(), 0..5),
    ) {
        let table = MembershipTable { enabled, config_id, array_name, list_ttl_s, members };
        prop_assert_eq!(parse(&table.to_text().unwrap()), Ok(table));
    }

    #[test]
    fn no_text_panics(junk: Vec<u8>, at in 0..200usize, byte: u8) {
        let _ = MembershipTable::parse(&junk);
        let mut text = format!("{HEAD}{MEMBER}").into_bytes();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(table) = MembershipTable::parse(&text) {
            prop_assert_eq!(parse(&table.to_text().unwrap()), Ok(table));
        }
    }
}
