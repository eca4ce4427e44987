//! Whom a listener is for.

use std::rc::Rc;

/// Whom a listener's requests are for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Position of the role in the directory.
    pub(crate) role: usize,
    pub(crate) role_name: Rc<str>,
    /// The two above are not known before a request is: each goes where its host and path lead.
    pub(crate) is_routed: bool,
}

impl Target {
    /// Every request is for this role.
    pub(crate) fn only(role: usize, role_name: Rc<str>) -> Self {
        Self { role, role_name, is_routed: false }
    }

    /// Each is routed.
    pub(crate) fn routed() -> Self {
        Self { role: usize::MAX, role_name: "".into(), is_routed: true }
    }
}
