//! What a proxy would do with a request, and why: the question and its answer, both as JSON.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{EndpointProtocol, EndpointState, Name};

/// A request that nobody sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// Its method.
    pub method: String,
    /// It would come by TLS.
    pub is_sealed: bool,
    /// Its host, with the port if that is another than usual.
    pub host: String,
    /// Its path and query.
    pub target: String,
    /// Who would send it; none: nobody knows, as at a Unix socket.
    pub from: Option<IpAddr>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prospect {
    /// Where it would come in; none: no listener reads such requests.
    pub listener: Option<String>,
    /// The listener has the port that was asked for.
    pub is_port_its: bool,
    /// The routes that match, the best first; none where the listener is for one role.
    pub routes: Vec<Matching>,
    /// What the proxy itself would answer, if it would.
    pub answer: Option<Answered>,
    /// Whose it would be.
    pub role: Option<Name>,
    /// What an upstream may have received is sent to another if it fails.
    pub is_repeatable: bool,
    /// Which upstream it would go to.
    pub choice: Option<Choice>,
}

/// A route that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matching {
    /// The route.
    pub route: String,
    /// It is in the proxy's file; else services claim it.
    pub is_of_file: bool,
    /// The roles that it leads to.
    pub roles: Vec<Name>,
}

/// What the proxy itself would answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// Why, as in the access log.
    pub word: String,
    /// Where the client would be sent.
    pub location: Option<String>,
}

/// A choice among a role's endpoints, as one worker would make it now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Of the table that the worker goes by.
    pub generation: u64,
    /// By what: `load`, or a key of the request.
    pub by: String,
    /// So many requests of the role wait at the worker.
    pub waiting: u32,
    /// All endpoints, those that drain, too.
    pub endpoints: Vec<Candidate>,
    /// The positions of those that were drawn: two by load, unless there is but one.
    pub drawn: Vec<usize>,
    /// The position of the one that it would go to; another look may draw others.
    pub chosen: Option<usize>,
}

/// An endpoint that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its node.
    pub node: Name,
    /// Where the proxy dials: an address, or the path of a Unix socket.
    pub addr: String,
    /// What the proxy would speak there.
    pub protocol: EndpointProtocol,
    /// Its node claims that; else the proxy was told, or it is the default.
    pub is_protocol_claimed: bool,
    /// What the table says of it.
    pub state: EndpointState,
    /// How good a choice it is: `healthy`, `spared` (ejected or refusing), `suspect` or `never`.
    pub tier: String,
    /// Its weight,
    pub weight: u16,
    /// and how much of it counts, in percent: a new one begins with little.
    pub grown_percent: u64,
    /// Requests and connections under way there, of all workers.
    pub in_flight: u32,
    /// It has failed, and has not served since.
    pub is_ejected: bool,
}
