//! An upstream that answers whatever it can read.

use proxy_fuzz::{
    peer::Peer,
    strict::{End, Read, read_request},
};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner(pub u8);

impl Manner {
    fn answer(self, is_upgrade: bool) -> Vec<u8> {
        match self.0 % 8 {
            1 => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
                .to_vec(),
            2 => b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            3 => Vec::new(),
            4 => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhello".to_vec(),
            5 => b"220 mail.example ESMTP\r\n".to_vec(),
            6 if is_upgrade => {
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
                    .to_vec()
            }
            7 => [&b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"[..], &[b'x'; 200_000]].concat(),
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        }
    }

    /// It does not wait for bodies.
    fn is_early(self) -> bool {
        self.0 & 8 != 0
    }
}

/// One of its connections.
pub struct Upstream {
    pub peer: Peer,
    /// How much has been answered.
    answered: usize,
    unsent: Vec<u8>,
    /// It reads no more requests.
    is_over: bool,
}

impl Upstream {
    pub fn new(peer: Peer) -> Self {
        Self { peer, answered: 0, unsent: Vec::new(), is_over: false }
    }

    /// Reads and answers; false if there was nothing to do.
    pub fn turn(&mut self, manner: Manner) -> bool {
        let mut moved = self.peer.receive();
        while !self.is_over
            && let Read::Message(request) = read_request(&self.peer.side.received[self.answered..])
        {
            match request.end {
                End::Whole(length) => self.answered += length,
                _ if manner.is_early() => self.is_over = true,
                _ => break,
            }
            self.is_over |= request.wants_upgrade || matches!(manner.0 % 8, 4 | 5);
            if !(request.method == "HEAD" && manner.0 % 8 == 7) {
                self.unsent.extend(manner.answer(request.wants_upgrade));
            }
        }
        let before = self.peer.side.sent.len();
        if !self.unsent.is_empty() {
            self.peer.send(&self.unsent);
            let sent = self.peer.side.sent.len() - before;
            self.unsent.drain(..sent);
            moved |= sent > 0;
        }
        if self.is_over && self.unsent.is_empty() && manner.0 % 8 == 4 {
            self.peer.close();
        }
        moved
    }
}
