//! The front: answers `GET /hello` with what an app says to it, and follows the feed to know the apps.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use feed::{
    EndpointId, EndpointState, Name, RoleTable,
    control::{self, Answer, FRONT, Question},
    follow::{Consumer, Follow},
    recall::{Attempt, Which},
    report::RoleLoad,
};
use http_body_util::{Either, Full};
use hyper::{
    Request, Response, StatusCode, Uri,
    header::{HeaderValue, RETRY_AFTER},
};
use program::metrics::Times;
use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    call::{self, CallError, Connection, Relayed},
    memory::{Memory, Noted},
    pool::{App, Pool},
    serve,
    tally::Tally,
};

/// Most apps that one request is sent to: it may be what ends them.
const ATTEMPTS_MAX: usize = 4;

/// How long a request is offered to one app after the other. Those that it could not be sent to are no attempts: when most apps die at
/// one moment, one that lives is found among them. Who refuses is ejected, so that dead apps cost each request little.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a front that has just started lets requests wait for its first table instead of refusing them: a
/// sidecar answers within milliseconds.
const FIRST_TABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the front called `node` until `shutdown` is done, then finishes what is in flight. `app_role` is the role
/// of the apps, `feed` the socket of the sidecar that knows them.
pub async fn serve_front_until(
    listener: TcpListener,
    node: &Name,
    feed: PathBuf,
    app_role: Name,
    shutdown: impl Future<Output = ()>,
) {
    let tally = Rc::new(Tally::default());
    let follow = Follow { path: feed.clone(), name: "front".into(), roles: vec![app_role.to_string()] };
    let front = Front::new(node, app_role);
    let (consumer, front_asked) = (front.clone(), front.clone());
    let serving = async {
        // The kernel takes connections meanwhile.
        let _ = timeout(FIRST_TABLE_TIMEOUT, front.table_came.notified()).await;
        let handle = move |request: Request<_>| {
            let front = front.clone();
            async move { front.handle_request(&request).await }
        };
        serve::serve_until(listener, handle, &tally, shutdown).await;
    };
    tokio::select! {
        never = follow.run(consumer) => match never {},
        never = control::serve(&feed, FRONT, |question| match question {
            Question::Metrics => Some(Answer::Done(tally.document(FRONT))),
            Question::Load => Some(Answer::Done(front_asked.load())),
            Question::Recall(which) => Some(Answer::Done(front_asked.recall(&which))),
            Question::Reload | Question::Explain(_) => None,
        }) => match never {},
        () = serving => {}
    }
}

#[derive(Clone)]
struct Front {
    app_role: Name,
    /// What an app is asked for.
    greeting: Uri,
    pool: Rc<RefCell<Pool<Connection>>>,
    table_came: Rc<Notify>,
    told: Rc<Told>,
    memory: Rc<Memory>,
    /// Of the newest table: which it is, and who drains.
    table: Rc<RefCell<(u64, Vec<Name>)>>,
}

/// What clients were told.
#[derive(Debug, Default)]
struct Told {
    answered: Cell<u64>,
    errors: Cell<u64>,
    /// Apps that were asked after another had failed.
    retries: Cell<u64>,
    /// How long answers took to begin.
    times: Times,
}

/// Why there is no answer of an app to relay.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no {role} is ready")]
    NoneReady { role: Name },
    #[error("no {role} answered, the last asked was {node}: {error}")]
    NoneAnswered { role: Name, node: Name, error: CallError },
}

impl Front {
    fn new(node: &Name, app_role: Name) -> Self {
        let greeting = Uri::try_from(format!("/hello/{node}")).expect("a name is made of path characters");
        Self {
            app_role,
            greeting,
            pool: Rc::default(),
            table_came: Rc::default(),
            told: Rc::default(),
            memory: Rc::default(),
            table: Rc::default(),
        }
    }

    async fn handle_request<B>(&self, request: &Request<B>) -> Response<Either<Relayed, Full<Bytes>>> {
        let settled = if request.uri().path() != "/hello" {
            Err(serve::text(StatusCode::NOT_FOUND, "nothing here, expected /hello\n".into()))
        } else if let Some(refusal) = serve::refuse_method(request.method()) {
            Err(refusal)
        } else {
            self.ask_noted(request).await.map_err(Refusal::into_response)
        };
        match settled {
            Ok(relayed) => relayed.map(Either::Left),
            Err(refusal) => refusal.map(Either::Right),
        }
    }

    /// Asks apps, and keeps of the request what is kept of it.
    async fn ask_noted<B>(&self, client: &Request<B>) -> Result<Response<Relayed>, Refusal> {
        let began = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut noted = Noted::of(client, &self.app_role, now);
        let settled = self.ask_apps(client, &mut noted).await;
        if let Err(refusal) = &settled {
            tracing::debug!(%refusal, "request refused");
            self.told.answered.update(|n| n + 1);
            self.told.errors.update(|n| n + 1);
        }
        if let Some(noted) = noted {
            let (status, refused) = match &settled {
                Ok(response) => (response.status(), None),
                Err(refusal) => (refusal.status(), Some(refusal.to_string())),
            };
            let draining = &self.table.borrow().1;
            self.memory.keep(noted, status, began.elapsed(), draining, refused.as_deref());
        }
        settled
    }

    /// What is kept of these requests, as JSON.
    fn recall(&self, which: &Which) -> String {
        // Names and numbers can all be written.
        serde_json::to_string(&self.memory.recall(which)).unwrap_or_default()
    }

    fn note_answer(&self, app: &App<Connection>, took: Duration, status: StatusCode) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        app.note_time(us);
        self.told.times.note(took);
        self.told.answered.update(|n| n + 1);
        if status.is_server_error() {
            app.note_failure();
            self.told.errors.update(|n| n + 1);
        }
    }

    /// How much it has to do, as JSON.
    fn load(&self) -> String {
        let load = RoleLoad {
            role: self.app_role.clone(),
            queued: 0,
            answered: self.told.answered.get(),
            errors: self.told.errors.get(),
            times_us: Times::counts_us(std::iter::once(&self.told.times)).collect(),
            retries: self.told.retries.get(),
            endpoints: self.pool.borrow().loads(Instant::now().into_std()),
            untold: 0,
        };
        // Names and numbers can all be written.
        serde_json::to_string(&[load]).unwrap_or_default()
    }

    /// Asks one app after the other until one answers. An app that is slow to answer ends the search: by then the
    /// client has waited long enough. One that the cluster loses meanwhile does not: a frozen one, or the other half
    /// of a cut network, would be waited for in vain.
    async fn ask_apps<B>(
        &self,
        client: &Request<B>,
        noted: &mut Option<Noted>,
    ) -> Result<Response<Relayed>, Refusal> {
        let role = || self.app_role.clone();
        let mut refusal = Refusal::NoneReady { role: role() };
        let (began, mut tried, mut attempts) = (Instant::now(), BTreeSet::new(), 0);
        while attempts < ATTEMPTS_MAX && began.elapsed() < SEARCH_TIMEOUT {
            let now = Instant::now().into_std();
            let Some(lease) = self.pool.borrow().choose(&tried, now, &mut rand::rng()) else { break };
            let app = Rc::clone(lease.app());
            if let Some(noted) = noted {
                let generation = Some(self.table.borrow().0);
                noted.begin_attempt(Attempt { generation, ..lease.attempt() });
            }
            if !tried.is_empty() {
                self.told.retries.update(|n| n + 1);
            }
            let asked = Instant::now();
            let answer = tokio::select! {
                answer = call::ask(lease, client, &self.greeting) => answer,
                () = app.lost() => Err(CallError::Lost),
            };
            let error = match answer {
                Ok(response) => {
                    self.note_answer(&app, asked.elapsed(), response.status());
                    return Ok(response);
                }
                Err(error) => error,
            };
            app.note_failure();
            if let Some(noted) = noted {
                noted.note_failure(&error.to_string(), began.elapsed());
            }
            tracing::warn!(node = %app.node, addr = %app.id.addr, %error, "app failed");
            app.eject(Instant::now().into_std());
            let slow = matches!(error, CallError::ResponseTimeout);
            attempts += usize::from(!error.is_unsent());
            refusal = Refusal::NoneAnswered { role: role(), node: app.node.clone(), error };
            if slow {
                break;
            }
            tried.insert(app.id);
        }
        Err(refusal)
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoneReady { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoneAnswered { error: CallError::ConnectTimeout | CallError::ResponseTimeout, .. } => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::NoneAnswered { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = serve::text(self.status(), format!("{self}\n"));
        if matches!(self, Self::NoneReady { .. }) {
            // RFC 9110 15.6.4: apps come within moments of being started.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl Consumer for Front {
    async fn apply_table(&mut self, table: &RoleTable) {
        tracing::debug!(role = %table.role(), generation = table.generation(), ready = table.ready().count(), "apps");
        self.pool.borrow_mut().apply_table(table);
        let draining = table.endpoints().iter().filter(|app| app.state == EndpointState::Draining);
        *self.table.borrow_mut() = (table.generation(), draining.map(|app| app.node.clone()).collect());
        self.table_came.notify_one();
    }

    fn in_flight(&self, _: &Name) -> HashMap<EndpointId, u32> {
        self.pool.borrow().in_flight()
    }
}
