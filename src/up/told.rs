//! What a person is told while the cluster is changed.

/// Something to tell.
pub(super) enum Told {
    /// It has happened.
    Line(String),
    /// It is waited for.
    Awaited(String),
}

/// Tells a person what happens.
pub(super) type Tell<'a> = &'a dyn Fn(Told);
