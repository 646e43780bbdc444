//! Asking other nodes who they are, and carrying the questions of a node that forms.
//!
//! The rules are in [`crate::form`]; this file has the sockets and the clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode};
use log::{info, warn};
use raft_core::types::Time;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::connect::{collect, connect, handshake, whole};
use super::headers::{JSON, detail_of};
use crate::form::{Formation, Forming, Hello, Verdict};

/// How long a hello may take, connecting included.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// A hello is small; more than this is not one.
const HELLO_BYTES_MAX: usize = 128 << 10;
/// How often the same reason for waiting is logged again.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// A node that forms, shared with whoever answers `/raft/hello` and `/health` meanwhile.
pub type SharedForming = Arc<Mutex<Forming>>;

/// Asks, until the verdict is to form or to adopt. The caller makes that durable. Dropping the
/// future stops the asking. `now` is the clock the [`Forming`] was made with.
pub async fn form(forming: SharedForming, now: impl Fn() -> Time) -> Formation {
    let (answers, mut answered) = mpsc::channel(64);
    let mut story = Story::default();
    loop {
        let (asks, deadline, verdict) = {
            let mut forming = forming.lock().expect("no code panics while it holds this lock");
            let asks = forming.wake(now());
            (asks, forming.deadline(), forming.verdict().clone())
        };
        match verdict {
            Verdict::Wait(why) => story.waiting(why),
            Verdict::Form(formation) => {
                info!("all peers agree: forming cluster {}", formation.cluster);
                return formation;
            }
            Verdict::Adopt(formation) => {
                info!("the peers have formed cluster {} with this node", formation.cluster);
                return formation;
            }
        }
        for ask in asks {
            let answers = answers.clone();
            tokio::spawn(async move {
                let hello = hello(&ask.address).await;
                // Nobody listens once the verdict is there.
                let _ = answers.send((ask.ask, hello)).await;
            });
        }
        let wait = Duration::from_nanos(deadline.0.saturating_sub(now().0)).min(REMIND_EVERY);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Some((ask, answer)) = answered.recv() => {
                let mut forming = forming.lock().expect("no code panics while it holds this lock");
                forming.answered(now(), ask, answer);
            }
        }
    }
}

/// Asks the node at `host:port` who it is. The error is for people.
pub async fn hello(address: &str) -> Result<Hello, String> {
    match timeout(HELLO_TIMEOUT, exchange(address)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", HELLO_TIMEOUT.as_secs())),
    }
}

async fn exchange(address: &str) -> Result<Hello, String> {
    let stream = connect(address).await.map_err(|error| error.text)?;
    let (mut sender, connection) = handshake(stream).await.map_err(|error| error.text)?;
    let request = Request::get("/raft/hello")
        .header(HOST, address)
        .header(ACCEPT, JSON)
        .body(whole(bytes::Bytes::new()))
        .map_err(|error| error.to_string())?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = collect(response.into_body().boxed(), HELLO_BYTES_MAX).await?;
        if status != StatusCode::OK {
            return Err(format!("it answers {status}: {}", detail_of(&body)));
        }
        Hello::from_json(&body)
    };
    tokio::pin!(asked, connection);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        // The connection may end with the answer already in hand.
        _ = &mut connection => asked.await,
    }
}

/// Says why we wait: at once when the reason changes, and again from time to time.
#[derive(Default)]
struct Story {
    told: Option<(String, Instant)>,
}

impl Story {
    fn waiting(&mut self, why: String) {
        let now = Instant::now();
        match &self.told {
            Some((told, at)) if *told == why && now < *at + REMIND_EVERY => {}
            _ => {
                warn!("not forming yet: {why}");
                self.told = Some((why, now));
            }
        }
    }
}
