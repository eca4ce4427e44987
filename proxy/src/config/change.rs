//! What is otherwise in another plan.

use std::{collections::BTreeMap, fmt};

use super::{Plan, RouteRule};

/// The difference between two plans, a line for each setting and route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change(Vec<String>);

impl Change {
    /// From this plan to that one.
    pub fn between(from: &Plan, to: &Plan) -> Self {
        let mut change = Self::default();
        change.note_list("listen", &texts(&from.listen), &texts(&to.listen));
        change.note_routes(&from.routes, &to.routes);
        macro_rules! note {
            ($($name:literal: $($field:ident).+;)*) => {
                $(if from.$($field).+ != to.$($field).+ {
                    change.0.push(format!("~ {}", $name));
                })*
            };
        }
        note! {
            "routes-allow": routes_allow;
            "timeouts": timeouts;
            "half-closed": half_closed;
            "balance": rules.balance;
            "upstream-protocol": rules.protocol;
            "upstream-trust": rules.trust;
            "upstream-server-name": rules.server_name;
            "eject-failures": rules.eject_failures;
            "eject-5xx": rules.eject_5xx;
            "eject-percent-max": rules.eject_percent_max;
            "eject-panic-percent": rules.eject_panic_percent;
            "retry-percent": rules.retry_percent;
            "upstream-connections-max": rules.upstream_connections_max;
            "upstream-pending-max": rules.upstream_pending_max;
            "proxy-protocol": edges.proxy_protocol;
            "send-proxy": edges.send_proxy;
            "sni": edges.sni;
            "certificate": certificates.pairs;
            "certificates": certificates.directory;
            "body-bytes-max": body_bytes_max;
            "forwarded": forwarding;
            "via": via;
            "request-id": request_ids;
            "trace": trace;
            "trace-sample": sampling;
        }
        let unused = to.unused().filter(|_| from.unused().is_none());
        change.0.extend(unused.map(|unused| format!("! {unused}")));
        change
    }

    fn note_list(&mut self, name: &str, from: &[String], to: &[String]) {
        let gone = from.iter().filter(|item| !to.contains(item));
        self.0.extend(gone.map(|item| format!("- {name} {item}")));
        let new = to.iter().filter(|item| !from.contains(item));
        self.0.extend(new.map(|item| format!("+ {name} {item}")));
    }

    fn note_routes(&mut self, from: &[RouteRule], to: &[RouteRule]) {
        let by_route = |rules: &[RouteRule]| -> BTreeMap<String, RouteRule> {
            rules.iter().map(|rule| (rule.route.to_string(), rule.clone())).collect()
        };
        let (from, to) = (by_route(from), by_route(to));
        for route in from.keys().filter(|route| !to.contains_key(*route)) {
            self.0.push(format!("- route {route}"));
        }
        for (route, rule) in &to {
            match from.get(route) {
                None => self.0.push(format!("+ route {route}")),
                Some(before) if before != rule => self.0.push(format!("~ route {route}")),
                Some(_) => {}
            }
        }
    }

    /// Both plans are the same.
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing has changed");
        }
        f.write_str(&self.0.join("\n"))
    }
}

fn texts(items: &[impl fmt::Display]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        Plan::new(program::file::parse("a.toml", text).unwrap()).unwrap()
    }

    #[test]
    fn what_is_new_gone_or_otherwise_has_a_line_each() {
        let from = plan(
            "listen = ['http://1.1.1.1:1', 'tcp://1.1.1.1:2=db']\nroute = [{ match = '/a', role = 'a' }, { match = '/b', role = 'b' }]",
        );
        let to = plan(
            "listen = ['http://1.1.1.1:1', 'tcp://1.1.1.1:3=db']\nroute = [{ match = '/b', role = 'c' }, { match = '/c', role = 'c' }]\ntimeouts = { idle = '1s' }",
        );
        assert_eq!(
            Change::between(&from, &to).to_string().lines().collect::<Vec<_>>(),
            [
                "- listen tcp://1.1.1.1:2=db",
                "+ listen tcp://1.1.1.1:3=db",
                "- route /a",
                "~ route /b",
                "+ route /c",
                "~ timeouts"
            ]
        );
        assert_eq!(Change::between(&to, &to).to_string(), "nothing has changed");
    }

    #[test]
    fn an_endpoint_for_spans_that_are_off_is_told_once() {
        let with =
            |trace: &str| plan(&format!("trace = '{trace}'\ntrace-sample = 5\notlp-endpoint = 'http://a:1'"));
        let (on, off) = (with("restart"), with("off"));
        assert_eq!((on.check_change(&off), off.check_change(&on)), (Ok(()), Ok(())));
        let told = "~ trace\n! otlp-endpoint is not used: trace is off, so there are no spans";
        assert_eq!(Change::between(&on, &off).to_string(), told);
        assert_eq!(Change::between(&off, &on).to_string(), "~ trace");
        assert!(Change::between(&off, &off).is_nothing());
        assert!(off.to_string().contains("! otlp-endpoint is not used") && !on.to_string().contains('!'));
    }
}
