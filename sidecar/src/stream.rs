//! Packets by stream: a length of four bytes, then the packet.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::sync::SYNC_BYTES_MAX;

/// Writes a packet.
pub(crate) async fn write_packet(stream: &mut (impl AsyncWrite + Unpin), packet: &[u8]) -> io::Result<()> {
    let length = u32::try_from(packet.len()).map_err(|_| too_long())?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(packet).await
}

/// Reads a packet. The length is checked before room is made for it, and room is made as bytes come.
pub(crate) async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > SYNC_BYTES_MAX {
        return Err(too_long());
    }
    let mut packet = Vec::new();
    stream.take(length as u64).read_to_end(&mut packet).await?;
    if packet.len() == length { Ok(packet) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "packet too long")
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
        assert_eq!(read_packet(&mut wire).await.unwrap(), b"one");
        assert_eq!(read_packet(&mut wire).await.unwrap(), b"");
        assert!(read_packet(&mut wire).await.is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_length_over_the_limit_and_a_truncated_packet_are_refused() {
        let over = u32::try_from(SYNC_BYTES_MAX + 1).unwrap().to_be_bytes();
        let refused = read_packet(&mut over.as_slice()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        let at_limit = u32::try_from(SYNC_BYTES_MAX).unwrap().to_be_bytes();
        let truncated = read_packet(&mut at_limit.as_slice()).await.unwrap_err();
        assert_eq!(truncated.kind(), io::ErrorKind::UnexpectedEof);
    }
}
