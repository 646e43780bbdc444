//! The client library against servers that answer as they are told: when a request is tried again,
//! when it must not be, and how the array of clusters is followed.

mod cli_common;

use std::time::Duration;

use carp::{Array, Change, Epoch, Member, MemberId, Moved, SlotBits};
use cli_common::{Do, Fake, answer, get_answer, nobody, problem, put_answer};
use kv_daemon::client::{Client, Error, Settings, When};

fn client(servers: &[String]) -> Client {
    let servers = servers.iter().map(|url| url.parse().expect("a URL")).collect();
    let mut settings = Settings::new(servers);
    // What is tested never waits this long.
    settings.timeout = Duration::from_secs(20);
    Client::new(settings)
}

/// Like [`client`], for servers of a cluster without an array.
fn plain(servers: &[String]) -> Client {
    let mut settings = client(servers).settings().clone();
    settings.routes = false;
    Client::new(settings)
}

#[tokio::test]
async fn a_write_that_was_not_applied_is_tried_again() {
    let server = Fake::start(|_, before| match before {
        0 => problem(503, "no-leader", Some("not_applied")),
        1 => problem(429, "busy", Some("not_applied")),
        _ => put_answer(),
    });
    let put = plain(&[server.url()]).put(b"k", "v", When::Always).await.unwrap();
    assert_eq!((put.revision, put.created), (7, true));
    assert_eq!(server.asked("/kv/k").len(), 3);
}

#[tokio::test]
async fn a_write_of_unknown_fate_is_never_sent_twice() {
    let breaks = Fake::start(|_, _| Do::Close);
    let other = Fake::start(|_, _| put_answer());
    let client = plain(&[breaks.url(), other.url()]);
    let error = client.put(b"k", "v", When::Always).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    assert_eq!((breaks.asked("/kv/k").len(), other.asked("/kv/k").len()), (1, 0));

    let says_so = Fake::start(|_, _| problem(503, "leader-lost", Some("unknown")));
    let error = plain(&[says_so.url()]).delete(b"k", When::Always).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    assert_eq!(says_so.asked("/kv/k").len(), 1);
}

#[tokio::test]
async fn a_read_is_tried_again_whatever_became_of_it() {
    let server = Fake::start(|_, before| match before {
        0 => Do::Close,
        1 => problem(503, "no-leader", None),
        _ => get_answer("blue"),
    });
    let client = plain(&[server.url()]);
    let record = client.get(b"k", Default::default()).await.unwrap().unwrap();
    assert_eq!((&record.value[..], record.mod_revision, record.version), (&b"blue"[..], 7, 3));
    assert_eq!(server.asked("/kv/k").len(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_there_costs_nothing_but_its_turn() {
    let server = Fake::start(|_, _| put_answer());
    let client = plain(&[format!("http://{}", nobody()), server.url()]);
    client.put(b"k", "v", When::Always).await.unwrap();
    client.put(b"k", "v", When::Always).await.unwrap();
    let asked = server.asked("/kv/k");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].connection, asked[1].connection, "the connection was kept");
}

#[tokio::test]
async fn when_nobody_is_there_nothing_was_sent() {
    let mut settings = plain(&[format!("http://{}", nobody())]).settings().clone();
    settings.timeout = Duration::from_millis(100);
    let error = Client::new(settings).put(b"k", "v", When::Always).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_read_does_not_wait_for_ever_on_a_silent_server() {
    let silent = Fake::start(|_, _| Do::Silence);
    let server = Fake::start(|_, _| get_answer("blue"));
    let mut settings = plain(&[silent.url(), server.url()]).settings().clone();
    settings.timeout = Duration::from_secs(4);
    let record = Client::new(settings).get(b"k", Default::default()).await.unwrap();
    assert_eq!(&record.unwrap().value[..], b"blue");
}

/// The server closes a kept connection between two requests: the second goes over a new one, and is
/// no write of unknown fate.
#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let body = r#"{"key":"k","revision":7,"version":1,"created":true}"#;
    let server = Fake::start(|_, _| Do::AnswerAndClose(201, Vec::new(), body.to_owned()));
    let client = plain(&[server.url()]);
    for _ in 0..3 {
        client.put(b"k", "v", When::Always).await.unwrap();
        // The connection's end has to arrive.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(server.asked("/kv/k").len(), 3);
}

#[tokio::test]
async fn what_a_server_refuses_is_told_as_it_is() {
    let server = Fake::start(|asked, _| match asked.path() {
        "/kv/condition" => answer(
            412,
            r#"{"type":"urn:kv:precondition","outcome":"not_applied","current_revision":9}"#,
        ),
        "/kv/large" => problem(413, "too-large", Some("not_applied")),
        "/kv/denied" => problem(403, "denied", Some("not_applied")),
        "/kv/none" => problem(404, "no-key", None),
        _ => answer(200, "<html>"),
    });
    let client = plain(&[server.url()]);
    let put = async |key: &str| client.put(key.as_bytes(), "v", When::AtRevision(3)).await;
    let failed = put("condition").await.unwrap_err();
    assert_eq!(failed, Error::ConditionFailed { current: Some(9) });
    assert_eq!(server.asked("/kv/condition")[0].header("if-match"), "\"3\"");
    assert!(matches!(put("large").await, Err(Error::TooLarge(_))));
    assert!(matches!(put("denied").await, Err(Error::Denied(_))));
    assert!(matches!(put("other").await, Err(Error::Strange(_))));
    assert_eq!(client.get(b"none", Default::default()).await, Ok(None));
}

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

/// Two clusters of one server each, and a key that the first one owns.
fn two(a: &str, b: &str) -> (Array, String) {
    let members =
        vec![Member::new(id("a"), vec![a.to_owned()]), Member::new(id("b"), vec![b.to_owned()])];
    let array = Array::fresh("kv", SlotBits::DEFAULT, 0, members).unwrap();
    let key = (0..).map(|number| format!("k{number}"));
    let key = key.into_iter().find(|key| array.route(key.as_bytes()).member.id == id("a"));
    (array, key.unwrap())
}

/// A server that tells an array, and answers keys as `keys` says.
fn with_array(
    array: impl Fn() -> Array + Send + Sync + 'static,
    keys: impl Fn(&Array) -> Do + Send + Sync + 'static,
) -> Fake {
    Fake::start(move |asked, _| match asked.path() {
        "/carp" => answer(200, array().to_json()),
        _ => keys(&array()),
    })
}

#[tokio::test]
async fn each_key_goes_to_its_owner_with_the_epoch() {
    let b = Fake::start(|_, _| put_answer());
    let b_url = b.url();
    let a = Fake::start(move |asked, _| match asked.path() {
        "/carp" => {
            answer(200, two(&format!("http://{}", asked.header("host")), &b_url).0.to_json())
        }
        _ => put_answer(),
    });
    let (array, _) = two(&a.url(), &b.url());
    let client = client(&[a.url()]);
    for number in 0..20 {
        let key = format!("k{number}");
        client.put(key.as_bytes(), "v", When::Always).await.unwrap();
        let owner = if array.route(key.as_bytes()).member.id == id("a") { &a } else { &b };
        let asked = owner.asked(&format!("/kv/{key}"));
        assert_eq!((asked.len(), asked[0].header("carp-epoch")), (1, "1"), "{key}");
    }
    assert_eq!(a.asked("/carp").len(), 1, "the array is asked for once");
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let b = Fake::start(|_, _| put_answer());
    let b_url = b.url();
    let a = Fake::start(move |asked, _| {
        let (array, key) = two(&format!("http://{}", asked.header("host")), &b_url);
        let moved = Moved {
            slot: array.slot(key.as_bytes()),
            owner: id("b"),
            slot_epoch: 2,
            epoch: Epoch(2),
            urls: vec![b_url.clone()],
        };
        match asked.path() {
            "/carp" => answer(200, array.to_json()),
            _ => answer(421, moved.to_json()),
        }
    });
    let (_, key) = two(&a.url(), &b.url());
    let client = client(&[a.url()]);
    client.put(key.as_bytes(), "v", When::Always).await.unwrap();
    client.put(key.as_bytes(), "v", When::Always).await.unwrap();
    let path = format!("/kv/{key}");
    assert_eq!((a.asked(&path).len(), b.asked(&path).len()), (1, 2));
}

#[tokio::test]
async fn two_redirects_are_followed_and_no_more() {
    let a = Fake::start(|asked, _| {
        let me = format!("http://{}", asked.header("host"));
        match asked.path() {
            "/carp" => answer(200, two(&me, &me).0.to_json()),
            // Always elsewhere, and never anything new.
            _ => answer(
                421,
                r#"{"slot":1,"owner":"b","slot_epoch":1,"epoch":1,"urls":["http://127.0.0.1:1"]}"#,
            ),
        }
    });
    let error = client(&[a.url()]).put(b"k", "v", When::Always).await.unwrap_err();
    assert!(matches!(error, Error::NotApplied(_)), "{error:?}");
    assert_eq!(a.asked("/kv/k").len(), 3);
    assert_eq!(a.asked("/carp").len(), 3, "an array was asked for after each redirect");
}

#[tokio::test]
async fn an_answer_of_a_larger_epoch_makes_the_client_ask_for_the_array() {
    let b = Fake::start(|_, _| get_answer("of b"));
    let b_url = b.url();
    let a = Fake::start(move |asked, before| {
        let (mut array, _) = two(&format!("http://{}", asked.header("host")), &b_url);
        let plan = array.plan(Change::Drain(id("a"))).unwrap();
        let newer = |array: &mut Array| array.apply_plan(&plan).unwrap();
        if asked.path() == "/carp" {
            if 0 < before {
                newer(&mut array);
            }
            return answer(200, array.to_json());
        }
        let headers = ["etag: \"7\"", "kv-create-revision: 1", "kv-version: 3", "carp-epoch: 2"];
        Do::Answer(200, headers.map(str::to_owned).to_vec(), "of a".to_owned())
    });
    let (_, key) = two(&a.url(), &b.url());
    let client = client(&[a.url()]);
    let mut values = Vec::new();
    while values.last().is_none_or(|value| value == "of a") {
        let record = client.get(key.as_bytes(), Default::default()).await.unwrap().unwrap();
        values.push(String::from_utf8(record.value.to_vec()).unwrap());
    }
    assert_eq!((values[0].as_str(), values.last().unwrap().as_str()), ("of a", "of b"));
    assert_eq!(a.asked("/carp").len(), 2);
    let path = format!("/kv/{key}");
    assert_eq!(b.asked(&path)[0].header("carp-epoch"), "2");
}

#[tokio::test]
async fn a_dead_owner_is_looked_for_in_a_newer_array() {
    let dead = format!("http://{}", nobody());
    let a = Fake::start(move |asked, before| {
        let me = format!("http://{}", asked.header("host"));
        match asked.path() {
            "/carp" if before == 0 => answer(200, two(&dead, &me).0.to_json()),
            "/carp" => {
                let (mut array, _) = two(&dead, &me);
                array.apply_plan(&array.plan(Change::Drain(id("a"))).unwrap()).unwrap();
                answer(200, array.to_json())
            }
            _ => put_answer(),
        }
    });
    let (_, key) = two("http://127.0.0.1:1", &a.url());
    client(&[a.url()]).put(key.as_bytes(), "v", When::Always).await.unwrap();
    assert_eq!(a.asked(&format!("/kv/{key}"))[0].header("carp-epoch"), "2");
}

#[tokio::test]
async fn a_list_is_gathered_over_all_clusters_only_where_there_are_several() {
    let page = r#"{"items":[{"key":"a","value":"1","revision":1,"create_revision":1,"version":1}],
        "next":null,"count":1,"revision":1}"#;
    let alone = Fake::start(move |asked, _| match asked.path() {
        "/carp" => problem(404, "no-route", None),
        _ => answer(200, page),
    });
    let members = with_array(
        || two("http://127.0.0.1:1", "http://127.0.0.1:2").0,
        move |_| answer(200, page),
    );
    for (server, scatters) in [(alone, false), (members, true)] {
        let client = client(&[server.url()]);
        let page = client.list(Default::default()).next(10).await.unwrap();
        assert_eq!((page.items.len(), page.more), (1, false));
        assert_eq!(server.asked("/kv")[0].target.contains("scatter=true"), scatters);
    }
}
