//! What holds for the requests of a route, compiled for every worker.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use super::{limiter::Limiter, stickiness::Stickiness};
use crate::{
    config::{ClientNetwork, Redirect, RouteRule, Timeouts},
    error::Refusal,
    http1::{FieldChanges, PathChange, Scheme, head::Asked},
    upstream::{alias::AliasTable, dice::Dice},
};

/// Where requests of a route go.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// To this role, by its position; nothing else holds for them.
    Role(usize),
    /// Where these say.
    Ruled(Arc<Rules>),
}

/// Where they go, and what holds for them.
#[derive(Debug)]
pub(crate) struct Rules {
    leads: Leads,
    access: Access,
    limiter: Option<Limiter>,
    /// How many proxies divide a rate.
    proxies: Arc<AtomicU32>,
    pub(crate) request: FieldChanges,
    pub(crate) path: Option<PathChange>,
    /// Without TLS, and with it.
    response: FieldChanges,
    sealed_response: FieldChanges,
    pub(crate) body_bytes_max: u64,
    pub(crate) timeouts: Timeouts,
    /// What an upstream may have received may be sent to another where that is safe.
    pub(crate) is_retried: bool,
    pub(crate) sticky: Option<Stickiness>,
}

#[derive(Debug)]
enum Leads {
    Redirect(Redirect),
    /// Positions of roles, to draw from by their weights.
    Roles {
        positions: Box<[usize]>,
        by_weight: AliasTable,
    },
}

#[derive(Debug)]
struct Access {
    /// With TLS alone.
    https_only: bool,
    allow: Box<[ClientNetwork]>,
    deny: Box<[ClientNetwork]>,
}

/// What a plan says of all routes, where one says nothing else.
#[derive(Debug, Clone)]
pub(crate) struct Usual {
    pub(crate) timeouts: Timeouts,
    pub(crate) body_bytes_max: u64,
    pub(crate) proxies: Arc<AtomicU32>,
}

/// What becomes of a request by the rules of its route.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes to a role, by its position.
    Role(usize),
    /// The client is told this.
    Refused(Refusal),
    /// The client is sent there.
    Redirected { location: String, is_permanent: bool },
}

impl Target {
    /// Compiles a route of a plan that was checked; none if its roles are not known.
    pub(crate) fn new(
        rule: &RouteRule,
        usual: &Usual,
        position: impl Fn(&feed::Name) -> Option<usize>,
    ) -> Option<Self> {
        if !rule.has_rules() {
            return Some(Self::Role(position(rule.role.as_ref()?)?));
        }
        Some(Self::Ruled(Arc::new(Rules::new(rule, usual, position)?)))
    }
}

impl Rules {
    fn new(rule: &RouteRule, usual: &Usual, position: impl Fn(&feed::Name) -> Option<usize>) -> Option<Self> {
        let leads = match &rule.redirect {
            Some(redirect) => Leads::Redirect(redirect.clone()),
            None => {
                let alone = rule.role.iter().map(|role| (role, 1));
                let shares = alone.chain(rule.roles.iter().map(|(role, weight)| (role, *weight)));
                let (roles, weights): (Vec<_>, Vec<u16>) = shares.unzip();
                let positions: Option<Box<[usize]>> = roles.into_iter().map(position).collect();
                Leads::Roles {
                    positions: positions?,
                    by_weight: AliasTable::new(weights.into_iter().enumerate()),
                }
            }
        };
        Some(Self {
            leads,
            access: Access {
                https_only: rule.https_only,
                allow: rule.allow.clone().into(),
                deny: rule.deny.clone().into(),
            },
            limiter: rule.rate_limit.as_ref().map(Limiter::new),
            proxies: usual.proxies.clone(),
            request: rule.request_changes().ok()?,
            path: rule.path_change(),
            response: rule.response_changes(Scheme::Http).ok()?,
            sealed_response: rule.response_changes(Scheme::Https).ok()?,
            body_bytes_max: rule.body_bytes_max.map_or(usual.body_bytes_max, |size| size.0),
            timeouts: rule.timeouts.over_all(usual.timeouts),
            is_retried: rule.retries,
            sticky: rule.sticky.as_ref().and_then(Stickiness::new),
        })
    }

    /// What is changed of a final response.
    pub(crate) fn response(&self, scheme: Scheme) -> &FieldChanges {
        if scheme == Scheme::Https { &self.sealed_response } else { &self.response }
    }

    /// What becomes of a request of this client. Of the roles that it may go to, those are drawn from that somebody serves, if there are any.
    pub(crate) fn judge(
        &self,
        (client, scheme): (Option<IpAddr>, Scheme),
        asked: &Asked<'_>,
        dice: &mut Dice,
        is_served: impl Fn(usize) -> bool,
    ) -> Verdict {
        if !self.access.includes(client) {
            return Verdict::Refused(Refusal::Forbidden);
        }
        if let Some(limiter) = &self.limiter {
            let key = limiter.key(client, |name| asked.values(name).next());
            if !limiter.admit(key, since_start(), self.proxies.load(Ordering::Relaxed)) {
                return Verdict::Refused(Refusal::RateLimited);
            }
        }
        if self.access.https_only && scheme == Scheme::Http {
            return match Redirect::TO_HTTPS.location(asked.host, asked.target) {
                Some(location) => Verdict::Redirected { location, is_permanent: true },
                None => Verdict::Refused(Refusal::Request(crate::http1::Reject::HostMissing)),
            };
        }
        match &self.leads {
            Leads::Redirect(redirect) => match redirect.location(asked.host, asked.target) {
                Some(location) => Verdict::Redirected { location, is_permanent: redirect.permanent },
                None => Verdict::Refused(Refusal::Request(crate::http1::Reject::HostMissing)),
            },
            Leads::Roles { positions, by_weight } => {
                let drawn = by_weight.draw(dice).map_or(0, |place| positions[place]);
                let others = || positions.iter().copied().find(|role| is_served(*role));
                Verdict::Role(if is_served(drawn) { drawn } else { others().unwrap_or(drawn) })
            }
        }
    }
}

impl Access {
    fn includes(&self, client: Option<IpAddr>) -> bool {
        let is_in = |networks: &[ClientNetwork]| networks.iter().any(|net| net.contains(client));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// The clock of limits: the same for all workers, and finer than theirs.
fn since_start() -> std::time::Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
