//! The names of the fields that say where a request came from.

/// The fields that are about the way of a request, in lower case.
pub(super) const WAY: [&[u8]; 13] = [
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-real-ip",
    b"x-forwarded",
    b"x-forwarded-by",
    b"x-forwarded-prefix",
    b"x-forwarded-protocol",
    b"x-forwarded-scheme",
    b"x-forwarded-server",
    b"x-forwarded-ssl",
];

/// Whether a field of this name tells where a request came from.
pub(super) fn is_way(name: &[u8]) -> bool {
    way_of(name).is_some()
}

/// The position in [`WAY`] of the field that this name means.
pub(super) fn way_of(name: &[u8]) -> Option<usize> {
    // The length and the first letter alone rule out nearly every other.
    if !(9..=20).contains(&name.len()) || !b"xXfF".contains(&name[0]) {
        return None;
    }
    WAY.iter().position(|way| is_alias(name, way))
}

/// Whether it is this name, with an underscore or a dot for a hyphen anywhere.
pub(super) fn is_alias(name: &[u8], of: &[u8]) -> bool {
    let is_same =
        |(byte, of): (&u8, &u8)| byte.to_ascii_lowercase() == *of || (*of == b'-' && b"_.".contains(byte));
    name.len() == of.len() && name.iter().zip(of).all(is_same)
}
