//! The app: greets whoever is named in the path.

use std::{path::PathBuf, rc::Rc};

use bytes::Bytes;
use feed::{Name, control, name::NAME_BYTES_MAX};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;

use crate::{serve, tally::Tally};

/// Runs the app called `node` until `shutdown` is done, then finishes what is in flight. `feed` is the socket of the sidecar that is told
/// what the app has counted.
pub async fn serve_app_until(
    listener: TcpListener,
    node: Name,
    feed: PathBuf,
    shutdown: impl Future<Output = ()>,
) {
    let handle = move |request: Request<_>| std::future::ready(greet(&request, &node));
    let tally = Rc::new(Tally::default());
    tokio::select! {
        never = control::serve_metrics(&feed, "app", || tally.document("app")) => match never {},
        () = serve::serve_until(listener, handle, &tally, shutdown) => {}
    }
}

fn greet<B>(request: &Request<B>, node: &Name) -> Response<Full<Bytes>> {
    let Some(name) = request.uri().path().strip_prefix("/hello/") else {
        return serve::text(StatusCode::NOT_FOUND, "nothing here, expected /hello/NAME\n".into());
    };
    if let Some(refusal) = serve::refuse_method(request.method()) {
        return refusal;
    }
    if !is_greetable(name) {
        let why = format!(
            "expected /hello/NAME, NAME of 1 to {NAME_BYTES_MAX} visible ASCII characters without '/'\n"
        );
        return serve::text(StatusCode::BAD_REQUEST, why);
    }
    serve::text(StatusCode::OK, format!("Hello {name}, I'm {node} !\n"))
}

fn is_greetable(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::{Method, header::ALLOW};

    fn ask(method: Method, path: &str) -> Response<Full<Bytes>> {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        greet(&request, &"appserver1".parse().unwrap())
    }

    #[test]
    fn a_name_has_1_to_63_visible_characters() {
        for (path, status) in [
            ("/hello/frontserver1", 200),
            ("/hello/%C3%BC!", 200),
            (&format!("/hello/{}", "x".repeat(63)), 200),
            (&format!("/hello/{}", "x".repeat(64)), 400),
            ("/hello/", 400),
            ("/hello/a/b", 400),
            ("/hello/ü", 400),
            ("/hello", 404),
            ("/", 404),
        ] {
            assert_eq!(ask(Method::GET, path).status(), status, "{path}");
        }
    }

    #[test]
    fn other_methods_are_refused_with_those_allowed() {
        assert_eq!(ask(Method::HEAD, "/hello/a").status(), 200);
        let refusal = ask(Method::POST, "/hello/a");
        assert_eq!(
            (refusal.status().as_u16(), &refusal.headers()[ALLOW]),
            (405, &"GET, HEAD".parse().unwrap())
        );
    }
}
