//! What the membership has done outside of it: answers to askers, events to monitors and handlers, queries to handlers.

use std::time::Duration;

use feed::{
    FromSidecar, Name,
    event::{Outcome, UserEvent},
};
use tokio::{task::spawn_local, time::timeout};

use super::{Driver, Event};
use crate::{
    cluster::query::{Asked, QueryId},
    node::{
        handler::{Call, Trigger},
        link::unix_ms,
    },
};

/// How long a wish of another node is watched before it has to be repeated.
const WISH_PERIOD: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn reply(&mut self, to: u64, frame: FromSidecar, is_last: bool) {
        if let Some(asker) = self.askers.get(&to) {
            let _ = asker.send(frame);
        }
        if is_last {
            self.askers.remove(&to);
        }
    }

    pub(super) fn apply_event(&mut self, event: UserEvent) {
        self.recent.note_event(&event, unix_ms());
        let UserEvent { name, payload, origin, .. } = event.clone();
        tracing::info!(%name, %origin, "event");
        self.publisher.publish_event(event);
        let envs =
            self.call_envs("CONCERTINA_EVENT", &name, Some(("CONCERTINA_EVENT_ORIGIN", origin.to_string())));
        let call = Call { trigger: Trigger::Event, name, payload, envs };
        let handlers = self.handlers.clone();
        spawn_local(async move {
            let name = call.name.clone();
            if let Some(Outcome::Error(why)) = handlers.run(call).await {
                tracing::warn!(%name, why, "event handler");
            }
        });
    }

    /// Works on a query; the outcome comes back as an event.
    pub(super) fn work_on(&self, id: QueryId, asked: Asked) {
        let (events, handlers, publisher) =
            (self.events.clone(), self.handlers.clone(), self.publisher.clone());
        let call = match asked {
            Asked::User { name, payload } => {
                let envs = self.call_envs("CONCERTINA_QUERY", &name, None);
                Ok(Call { trigger: Trigger::Query, name, payload, envs })
            }
            Asked::Visible(wish) => Err(wish),
        };
        spawn_local(async move {
            let outcome = match call {
                Ok(call) => {
                    let name = call.name.clone();
                    let outcome = handlers.run(call).await;
                    Some(outcome.unwrap_or_else(|| Outcome::Error(format!("nothing here answers {name}"))))
                }
                // The asker repeats itself; if it does not, nobody needs the answer.
                Err(wish) => {
                    let fulfilled = timeout(WISH_PERIOD, publisher.fulfilled(&wish)).await;
                    fulfilled.ok().map(|()| Outcome::Payload(String::new()))
                }
            };
            let _ = events.send(Event::Outcome(id, outcome));
        });
    }

    fn call_envs(
        &self,
        what: &'static str,
        name: &Name,
        more: Option<(&'static str, String)>,
    ) -> Vec<(&'static str, String)> {
        let own = [
            (what, name.to_string()),
            ("CONCERTINA_NODE", self.node.to_string()),
            ("CONCERTINA_ROLE", self.args.role.to_string()),
            ("CONCERTINA_FEED", self.args.feed.display().to_string()),
        ];
        own.into_iter().chain(more).collect()
    }
}
