//! Packets by stream: a length of four bytes, then the packet.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{cluster::sync::SYNC_BYTES_MAX, wire::packet::PacketError};

/// Why a stream is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// It failed or ended between packets.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side sent what no sidecar of this cluster sends.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// Writes a packet.
pub(crate) async fn write_packet(stream: &mut (impl AsyncWrite + Unpin), packet: &[u8]) -> io::Result<()> {
    let length = u32::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(packet).await
}

/// Reads a packet. The length is checked before room is made for it, and room is made as bytes come.
pub(crate) async fn read_packet_within(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Vec<u8>, StreamError> {
    let length = read_length(stream, bytes_max).await?;
    read_bytes(stream, length).await
}

/// Reads so many bytes of a packet, or all of it if it is shorter: who only wants to know of which kind it is makes room for no more.
pub(crate) async fn read_beginning(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Vec<u8>, StreamError> {
    let length = read_length(stream, SYNC_BYTES_MAX).await?;
    read_bytes(stream, length.min(bytes_max)).await
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> Result<usize, StreamError> {
    let mut length = Vec::new();
    stream.take(4).read_to_end(&mut length).await?;
    let length = match length[..] {
        // Who dials only to see that somebody is there says nothing.
        [] => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]) as usize,
        _ => return Err(PacketError::Truncated.into()),
    };
    if length > bytes_max { Err(PacketError::Oversized.into()) } else { Ok(length) }
}

async fn read_bytes(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Result<Vec<u8>, StreamError> {
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() == length { Ok(bytes) } else { Err(PacketError::Truncated.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn packets_arrive_one_by_one() {
        let mut wire = Vec::new();
        write_packet(&mut wire, b"one").await.unwrap();
        write_packet(&mut wire, b"").await.unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(read_packet_within(&mut wire, SYNC_BYTES_MAX).await.unwrap(), b"one");
        assert_eq!(read_packet_within(&mut wire, SYNC_BYTES_MAX).await.unwrap(), b"");
        let ended = read_packet_within(&mut wire, SYNC_BYTES_MAX).await;
        assert!(
            matches!(ended, Err(StreamError::Io(_))),
            "an end between packets is nobody's fault: {ended:?}"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn of_a_long_packet_only_the_beginning_is_read_and_of_a_short_one_all() {
        for (packet, beginning) in [(&b"123"[..], &b"123"[..]), (b"1234", b"1234"), (b"12345", b"1234")] {
            let mut wire = Vec::new();
            write_packet(&mut wire, packet).await.unwrap();
            assert_eq!(read_beginning(&mut wire.as_slice(), 4).await.unwrap(), beginning);
        }
        let cut = read_beginning(&mut &b"\0\0\0\x05123"[..], 4).await;
        assert!(matches!(cut, Err(StreamError::Packet(PacketError::Truncated))), "{cut:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_length_over_the_limit_and_a_truncated_packet_are_refused() {
        let over = u32::try_from(SYNC_BYTES_MAX + 1).unwrap().to_be_bytes();
        let refused = read_packet_within(&mut over.as_slice(), SYNC_BYTES_MAX).await;
        assert!(matches!(refused, Err(StreamError::Packet(PacketError::Oversized))), "{refused:?}");
        let at_limit = u32::try_from(SYNC_BYTES_MAX).unwrap().to_be_bytes();
        for truncated in [&at_limit[..], &at_limit[..3]] {
            let read = read_packet_within(&mut { truncated }, SYNC_BYTES_MAX).await;
            assert!(matches!(read, Err(StreamError::Packet(PacketError::Truncated))), "{read:?}");
        }
    }
}
