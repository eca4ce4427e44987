//! The file of a local cluster: what is in it, and what is wrong with it.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use feed::{EndpointProtocol, Name, Route, Routes, Tag, Tags};
use program::file::{FileError, Misfit, Spanned};
use proxy::config::{Listen, Protocol, RequestIds};
use serde::{Deserialize, Deserializer, de::Error as _};
use sidecar::{config::Check, node::supervise::StopSignal};

use super::command_line::{CommandLine, HOST, PORT};
use super::service::{NODES_OF_ROLE_MAX, Port, Process, Program, Service, Services};

/// Where the proxy listens if nobody says so.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// What a file says.
#[derive(Debug)]
pub(super) struct Plan {
    /// Where the proxy listens; empty: that is not said.
    pub(super) listen: Vec<Listen>,
    /// None: that is not said.
    pub(super) request_ids: Option<RequestIds>,
    pub(super) services: Services,
}

/// Reads the file. Paths in it begin where it lies.
pub(super) fn read(path: &Path) -> Result<Plan, FileError> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let dir = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    program::file::read_checked(path, |written: Written| written.check(&dir))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    proxy: WrittenProxy,
    #[serde(default)]
    service: BTreeMap<Spanned<String>, WrittenService>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenProxy {
    #[serde(default)]
    listen: Vec<Spanned<String>>,
    request_id: Option<RequestIds>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenService {
    command: CommandLine,
    #[serde(default)]
    count: Count,
    port: Option<u16>,
    check: Option<Spanned<ByText<Check>>>,
    #[serde(default)]
    routes: Vec<Spanned<String>>,
    protocol: Option<Spanned<ByText<EndpointProtocol>>>,
    dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    tags: BTreeMap<Spanned<String>, String>,
    stop_signal: Option<ByText<StopSignal>>,
    stop_timeout: Option<ByText<Time>>,
    drain_timeout: Option<ByText<Time>>,
}

fn misfit<T>(at: &Spanned<T>, why: impl fmt::Display) -> Misfit {
    Misfit { at: at.span(), why: why.to_string() }
}

impl Written {
    fn check(self, dir: &Path) -> Result<Plan, Misfit> {
        if self.service.is_empty() {
            let why = "no service: expected a table such as [service.web] with a command".to_owned();
            return Err(Misfit { at: 0..0, why });
        }
        let route = self.service.values().find_map(|service| service.routes.first()).cloned();
        let names: Vec<Spanned<String>> = self.service.keys().cloned().collect();
        let mut claimed = BTreeMap::new();
        let mut services: Vec<Service> = Vec::new();
        for (name, service) in self.service {
            let role: Name = name.get_ref().parse().map_err(|error| misfit(&name, error))?;
            if services.iter().any(|other| other.role == role) {
                return Err(misfit(&name, format!("there is a service {role} already: names have no case")));
            }
            services.push(service.check(role, dir, &mut claimed)?);
        }
        let services = Services::new(services).map_err(|(place, clash)| misfit(&names[place], clash))?;
        let listen = check_listeners(self.proxy.listen, &services)?;
        match route {
            Some(route) if !listen.is_empty() && listen.iter().all(|listen| listen.role.is_some()) => {
                let why = "no listener of the proxy serves what services claim: expected one without a role, such as \
                           http://127.0.0.1:8080";
                Err(misfit(&route, why))
            }
            _ => Ok(Plan { listen, request_ids: self.proxy.request_id, services }),
        }
    }
}

/// Each address once, and for services that there are.
fn check_listeners(written: Vec<Spanned<String>>, services: &Services) -> Result<Vec<Listen>, Misfit> {
    let mut listeners: Vec<Listen> = Vec::new();
    for listener in written {
        let listen: Listen = listener.get_ref().parse().map_err(|error| misfit(&listener, error))?;
        if listen.protocol == Protocol::Https {
            let why =
                "a local cluster has a certificate where --tls says: expected http:// or h2c://".to_owned();
            return Err(misfit(&listener, why));
        }
        let is_known = |role: &&Name| services.ids().any(|id| services.get(id).role == **role);
        if let Some(role) = listen.role.as_ref().filter(|role| !is_known(role)) {
            return Err(misfit(
                &listener,
                format!("no service {role}: expected one of {}", services.roles()),
            ));
        }
        let Some(addr) = listen.addr.ip() else {
            let why = "a local cluster is reached at a port: expected IP:PORT".to_owned();
            return Err(misfit(&listener, why));
        };
        if addr.port() != 0 && listeners.iter().any(|other| other.addr == listen.addr) {
            return Err(misfit(&listener, format!("{addr} is listened at already")));
        }
        listeners.push(listen);
    }
    Ok(listeners)
}

impl WrittenService {
    /// The service of this role; `claimed` are the routes of those before it.
    fn check(self, role: Name, dir: &Path, claimed: &mut BTreeMap<Route, Name>) -> Result<Service, Misfit> {
        let port = match self.port {
            None => Port::Own,
            Some(0) => Port::None,
            Some(port) => Port::Same(port),
        };
        if let Some(check) = self.check.as_ref().filter(|check| check.get_ref().0.asks_port())
            && port == Port::None
        {
            let why = "port = 0 says that there is no port to ask: expected none or exec:PROGRAM, or a port";
            return Err(misfit(check, why));
        }
        let routes = check_routes(&role, port, &self.routes, claimed)?;
        if let Some(protocol) = self.protocol.as_ref().filter(|_| port == Port::None) {
            let why = "port = 0 says that nothing is spoken: expected a port, or no protocol";
            return Err(misfit(protocol, why));
        }
        let program = Program {
            command: self.command,
            dir: working_dir(self.dir, dir)?,
            env: check_env(self.env)?,
            check: self.check.map(|check| check.into_inner().0),
            routes,
            protocol: self.protocol.map(|protocol| protocol.into_inner().0),
            tags: check_tags(&self.tags)?,
            stop_signal: self.stop_signal.map(|signal| signal.0),
            stop_timeout: self.stop_timeout.map(|time| time.0.0),
            drain_timeout: self.drain_timeout.map(|time| time.0.0),
        };
        Ok(Service { role, count: self.count.0, port, process: Process::Program(Box::new(program)) })
    }
}

/// Routes that nobody before claims.
fn check_routes(
    role: &Name,
    port: Port,
    written: &[Spanned<String>],
    claimed: &mut BTreeMap<Route, Name>,
) -> Result<Routes, Misfit> {
    let mut routes: Vec<Route> = Vec::new();
    for text in written {
        if port == Port::None {
            let why = "port = 0 says that there is nothing to route to: expected a port, or no routes";
            return Err(misfit(text, why));
        }
        let route: Route = text.get_ref().parse().map_err(|error| misfit(text, error))?;
        if text.get_ref().contains(',') {
            return Err(misfit(text, "a comma separates routes elsewhere: expected none in it"));
        }
        if let Some(other) = claimed.insert(route.clone(), role.clone()) {
            return Err(misfit(text, format!("{route} is claimed by {other} already")));
        }
        routes.push(route);
    }
    let all = Routes::new(routes);
    all.map_err(|error| Misfit {
        at: written.first().map_or(0..0, |text| text.span()),
        why: error.to_string(),
    })
}

/// An existing directory, from where the file lies.
fn working_dir(written: Option<Spanned<PathBuf>>, base: &Path) -> Result<PathBuf, Misfit> {
    let Some(written) = written else { return Ok(base.to_owned()) };
    let dir = base.join(written.get_ref());
    match fs::metadata(&dir) {
        Ok(there) if there.is_dir() => Ok(dir),
        Ok(_) => Err(misfit(&written, format!("{}: expected a directory", dir.display()))),
        Err(error) => Err(misfit(&written, format!("{}: {error}; expected a directory", dir.display()))),
    }
}

fn check_env(
    written: BTreeMap<Spanned<String>, Spanned<String>>,
) -> Result<BTreeMap<String, String>, Misfit> {
    for (name, value) in &written {
        let (text, is_ours) = (name.get_ref(), name.get_ref().starts_with("CONCERTINA_"));
        let why = match text.as_str() {
            HOST | PORT => {
                format!("{text} is where the program is to listen: expected `port` beside `env`, or nothing")
            }
            program::LOG_VARIABLE | program::FORMAT_VARIABLE => continue,
            _ if is_ours => {
                format!("{text} would be heard by the node's sidecar: expected a key beside `env`")
            }
            _ if text.is_empty() || text.contains(['=', '\0']) => {
                format!("{text:?} is not a variable: expected a name without = in it")
            }
            _ if value.get_ref().contains('\0') => format!("{text}: expected a value without a zero byte"),
            _ => continue,
        };
        return Err(misfit(name, why));
    }
    Ok(written.into_iter().map(|(name, value)| (name.into_inner(), value.into_inner())).collect())
}

fn check_tags(written: &BTreeMap<Spanned<String>, String>) -> Result<Tags, Misfit> {
    let mut tags: Vec<Tag> = Vec::new();
    for (key, value) in written {
        tags.push(format!("{}={value}", key.get_ref()).parse().map_err(|error| misfit(key, error))?);
    }
    let at = written.keys().next().map_or(0..0, Spanned::span);
    Tags::new(tags).map_err(|error| Misfit { at, why: error.to_string() })
}

/// A value that is written as a text.
#[derive(Debug)]
struct ByText<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for ByText<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// A time with its unit.
#[derive(Debug)]
struct Time(std::time::Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        feed::time::parse_duration(text).map(Self)
    }
}

/// How many nodes there are at the start.
struct Count(u8);

impl Default for Count {
    fn default() -> Self {
        Self(1)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = i64::deserialize(deserializer)?;
        let count = u8::try_from(written).ok().filter(|count| *count <= NODES_OF_ROLE_MAX);
        count.map(Self).ok_or_else(|| {
            D::Error::custom(format!("{written} nodes: expected a count from 0 to {NODES_OF_ROLE_MAX}"))
        })
    }
}

/// The listener of a proxy that serves what services claim there.
pub(super) fn routing(addr: SocketAddr) -> Listen {
    Listen { protocol: Protocol::Http, addr: addr.into(), role: None, mode: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, String> {
        let read = |written: Written| written.check(Path::new("/"));
        program::file::parse_checked("c.toml", text, read).map_err(|error| error.to_string())
    }

    /// The one service of a file.
    fn service(lines: &str) -> Result<Service, String> {
        plan(&format!("[service.web]\ncommand = \"x\"\n{lines}\n")).map(|plan| plan.services.into_first())
    }

    #[test]
    fn a_service_is_what_its_keys_say_and_else_as_usual() {
        let text = r#"
            [proxy]
            listen = ["http://127.0.0.1:80", "tcp://127.0.0.1:81=db"]
            request-id = "make"
            [service.db]
            command = ["db", "-p", "$PORT"]
            count = 2
            port = 5432
            check = "exec:ready $PORT"
            routes = ["/b", "a/"]
            protocol = "h2c"
            env = { A = "1" }
            tags = { v = "2" }
            dir = "."
            stop-signal = "INT"
            stop-timeout = "3s"
            drain-timeout = "4s"
        "#;
        let Plan { listen, request_ids, services } = plan(text).unwrap();
        assert_eq!(request_ids, Some(RequestIds::Make));
        let said: Vec<String> = listen.iter().map(Listen::to_string).collect();
        assert_eq!(said, ["http://127.0.0.1:80", "tcp://127.0.0.1:81=db"]);
        let db = services.into_first();
        assert_eq!((db.role.as_str(), db.count, db.port), ("db", 2, Port::Same(5432)));
        let Process::Program(program) = db.process else { panic!("{db:?}") };
        assert_eq!(program.command, CommandLine::Words(["db", "-p", "$PORT"].map(str::to_owned).into()));
        assert_eq!((program.routes.to_string(), program.tags.to_string()), ("a,/b".into(), "v=2".into()));
        assert_eq!(program.protocol, Some(EndpointProtocol::H2c));
        assert_eq!(program.stop_signal.unwrap().to_string(), "SIGINT");
        assert_eq!(
            (program.stop_timeout.unwrap().as_secs(), program.drain_timeout.unwrap().as_secs()),
            (3, 4)
        );

        let web = service("").unwrap();
        assert_eq!((web.count, web.port), (1, Port::Own));
        let Process::Program(program) = web.process else { panic!("{web:?}") };
        assert_eq!((program.command, program.dir), (CommandLine::Shell("x".into()), "/".into()));
    }

    #[test]
    fn what_is_wrong_with_a_service_has_its_place_and_what_would_be_right() {
        let of_web = |line: &str| service(line).unwrap_err();
        for (line, why) in [
            ("counts = 2", "3:1: unknown field `counts`"),
            ("count = 251", "3:9: 251 nodes: expected a count from 0 to 250"),
            ("count = -1", "3:9: -1 nodes"),
            ("count = \"2\"", "3:9: invalid type: string \"2\""),
            ("port = 65536", "3:8: invalid value: integer `65536`"),
            ("check = \"ping\"", "3:9: \"ping\" is not a check: expected tcp, none"),
            ("port = 0\ncheck = \"tcp\"", "4:9: port = 0 says that there is no port to ask"),
            ("port = 0\nroutes = [\"/\"]", "4:11: port = 0 says that there is nothing to route to"),
            ("protocol = \"h3\"", "3:12: \"h3\" is not a protocol: expected http, https, h2c or h2"),
            ("port = 0\nprotocol = \"h2c\"", "4:12: port = 0 says that nothing is spoken"),
            ("routes = [\"/a\", \"a b\"]", "3:17: \"a b\" is not a route"),
            ("routes = [\"/a\", \"/a/\"]", "3:17: /a is claimed by web already"),
            ("routes = [\"/a,b\"]", "3:11: a comma separates routes"),
            (
                "routes = [\"/1\",\"/2\",\"/3\",\"/4\",\"/5\",\"/6\",\"/7\",\"/8\",\"/9\"]",
                "3:11: 9 routes, over 8",
            ),
            ("dir = \"nowhere-at-all\"", "3:7: /nowhere-at-all: No such file"),
            ("dir = \"etc/passwd\"", "3:7: /etc/passwd: expected a directory"),
            ("env = { PORT = \"1\" }", "3:9: PORT is where the program is to listen"),
            (
                "env = { CONCERTINA_ROLE = \"1\" }",
                "3:9: CONCERTINA_ROLE would be heard by the node's sidecar",
            ),
            ("env = { \"A=B\" = \"1\" }", "3:9: \"A=B\" is not a variable"),
            ("env = { A = 1 }", "3:13: invalid type: integer `1`, expected text in quotes"),
            ("tags = { \"a b\" = \"1\" }", "3:10: \"a b=1\" is not a tag"),
            ("stop-signal = \"STOP\"", "3:15: \"STOP\" is not a signal to stop by"),
            ("stop-timeout = \"3\"", "3:16: \"3\" is not a time"),
        ] {
            let said = of_web(line);
            assert!(said.starts_with(&format!("c.toml:{why}")), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_as_a_whole_has_its_place_too() {
        for (text, why) in [
            ("", "1:1: no service: expected a table such as [service.web]"),
            ("[services.web]\n", "1:2: unknown field `services`"),
            ("[service.web]\n", "1:1: missing field `command`"),
            ("[service.web]\ncommand = \" \"\n", "2:11: an empty command: expected a program"),
            ("[service.web]\ncommand = []\n", "2:11: an empty command"),
            ("[service.web]\ncommand = [\"\"]\n", "2:11: an empty command"),
            ("[service.web]\ncommand = 7\n", "2:11: invalid type: integer `7`, expected a list of a program"),
            ("[service.\"a b\"]\ncommand = \"x\"\n", "1:10: \"a b\" is not a name"),
            (
                "[service.proxyserver]\ncommand = \"x\"\n",
                "1:10: proxyserver is started in every local cluster",
            ),
            ("[service.a]\ncommand = \"x\"\n[service.A]\ncommand = \"x\"\n", "there is a service a already"),
            (
                "[service.a]\ncommand = \"x\"\n[service.a1]\ncommand = \"x\"\n",
                "3:10: a1: nodes of a would have",
            ),
            (
                "[service.a]\ncommand = \"x\"\nroutes = [\"/\"]\n[service.b]\ncommand = \"x\"\nroutes = [\"/\"]\n",
                "6:11: / is claimed by a already",
            ),
            (
                "[proxy]\nlisten = [\"127.0.0.1:1\"]\n[service.a]\ncommand = \"x\"\n",
                "2:11: \"127.0.0.1:1\": no scheme",
            ),
            (
                "proxy.request-id = 'new'\n[service.a]\ncommand = \"x\"\n",
                "1:20: unknown variant `new`, expected one of `off`, `make`, `keep`",
            ),
            (
                "proxy.listen = [\"tcp://127.0.0.1:1=b\"]\n[service.a]\ncommand = \"x\"\n",
                "1:17: no service b: expected one of a",
            ),
            (
                "proxy.listen = [\"http://127.0.0.1:1=a\"]\n[service.a]\ncommand = \"x\"\nroutes = [\"/\"]\n",
                "4:11: no listener of the proxy serves what services claim",
            ),
            (
                "proxy.listen = [\"http://127.0.0.1:1\", \"http://127.0.0.1:1=a\"]\n[service.a]\ncommand = \"x\"\n",
                "1:39: 127.0.0.1:1 is listened at already",
            ),
        ] {
            let said = plan(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_count_has_a_greatest_value() {
        assert_eq!(service("count = 250").unwrap().count, NODES_OF_ROLE_MAX);
        assert_eq!(service("count = 0").unwrap().count, 0);
        assert!(service("count = 251").is_err());
    }
}
