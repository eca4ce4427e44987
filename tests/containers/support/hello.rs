//! One request at a time, and what is answered.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// One `GET /hello` on a connection of its own.
pub(crate) fn hello(addr: SocketAddr) -> Result<String, String> {
    get(addr, "/hello")
}

/// The same of this path.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

/// The answers that so many requests get.
pub(crate) fn answers(addr: SocketAddr, requests: usize) -> BTreeSet<String> {
    (0..requests).map(|_| hello(addr).unwrap_or_else(|error| error)).collect()
}

/// What so many fronts say with so many apps.
pub(crate) fn pairs(fronts: usize, apps: usize) -> BTreeSet<String> {
    let pair = |front, app| format!("Hello frontserver{front}, I'm appserver{app} !\n");
    (1..=fronts).flat_map(|front| (1..=apps).map(move |app| pair(front, app))).collect()
}

/// Whether a node, front or app, had a part in an answer.
pub(crate) fn is_from(answer: &str, node: &str) -> bool {
    answer.split([' ', ',']).any(|word| word == node)
}
