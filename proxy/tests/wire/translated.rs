//! A request of a script, in which HTTP/1 is spoken, as one of HTTP/2.

use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, uri::PathAndQuery};

use crate::normal::Head;

/// What a translator makes of a request: the host is the authority, and an upgrade is an extended CONNECT (RFC 8441).
pub(crate) fn request(head: &Head) -> Result<Request<()>, String> {
    let (method, target) = head.line.split_once(' ').ok_or("no target")?;
    let mut fields = header_map(&head.fields)?;
    let hosts: Vec<_> = fields.get_all("host").iter().cloned().collect();
    fields.remove("host");
    let mut te = fields.get_all("te").iter().filter_map(|te| te.to_str().ok());
    let has_trailers = te.any(|te| te.split(',').any(|coding| coding.trim() == "trailers"));
    fields.remove("te");
    if has_trailers {
        fields.insert("te", HeaderValue::from_static("trailers"));
    }
    let (authority, path) = match (target.split_once("://"), &hosts[..]) {
        (Some((_, rest)), [_]) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let slash = if rest[end..].starts_with('/') { "" } else { "/" };
            let path = if method == "OPTIONS" && rest.len() == end { "*" } else { &rest[end..] };
            (&rest[..end], if path == "*" { path.to_owned() } else { format!("{slash}{path}") })
        }
        (None, [host]) => (host.to_str().map_err(|error| error.to_string())?, target.to_owned()),
        _ => return Err(format!("{} hosts", hosts.len())),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(authority.parse().map_err(|error| format!("{authority:?}: {error}"))?);
    parts.path_and_query =
        Some(PathAndQuery::try_from(path).map_err(|error| format!("{target:?}: {error}"))?);
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
    let method = if head.is_upgrade { "CONNECT" } else { method };
    *request.method_mut() = method.parse().map_err(|error| format!("{method:?}: {error}"))?;
    *request.headers_mut() = fields;
    if head.is_upgrade {
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    Ok(request)
}

pub(crate) fn header_map(fields: &[(String, Vec<u8>)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("{name:?}: {error}"))?;
        let value = HeaderValue::from_bytes(value).map_err(|error| format!("{name:?}: {error}"))?;
        map.append(name, value);
    }
    Ok(map)
}
