//! The rules of a route by themselves, for benchmarks.

use std::{
    cell::{OnceCell, RefCell},
    sync::Arc,
};

use crate::{
    config::{Given, Plan},
    http1::{Pieces, head::Hop, head::parse_routed},
    route::{Key, Table, Target, Usual, Verdict},
    upstream::dice::Dice,
};

/// One route, and what it does to requests.
pub struct Ruling {
    routes: Table<Target>,
    dice: RefCell<Dice>,
    pieces: Pieces,
}

impl Ruling {
    /// A route for every request, with these rules as they are written in the file.
    ///
    /// # Panics
    /// They are none.
    pub fn new(rules: &str) -> Self {
        let text = format!("route = [{{ match = '/', {rules} }}]");
        let given: Given = program::file::parse("rules", &text).expect("rules");
        let plan = Plan::new(given).expect("a plan");
        let usual =
            Usual { timeouts: plan.timeouts, body_bytes_max: plan.body_bytes_max, proxies: Arc::default() };
        let target = |rule| Target::new(rule, &usual, |_| Some(0)).expect("known roles");
        let routes = plan.routes.iter().map(|rule| (rule.route.clone(), target(rule))).collect();
        Self { routes, dice: RefCell::new(Dice::new(1)), pieces: Pieces::default() }
    }

    /// Reads a request's head, routes it, and makes what an upstream would be sent of it; true if one would.
    pub fn pass(&mut self, head: &mut [u8]) -> bool {
        let (found, verdict) = (OnceCell::new(), OnceCell::new());
        let parsed = parse_routed(head, &mut self.pieces, |asked| {
            let key = Key::new(asked.host, asked.target).map_err(|_| crate::http1::Reject::Target)?;
            let target = found.get_or_init(|| self.routes.find(&key).cloned());
            let Some(Target::Ruled(rules)) = target else { return Ok(Hop::plain("role")) };
            let client = (Some([10, 0, 0, 1].into()), crate::http1::Scheme::Http);
            let judged = rules.judge(client, &asked, &mut self.dice.borrow_mut(), |_| true);
            let cookie = rules.sticky.as_ref().and_then(|sticky| sticky.read(asked.values("cookie")));
            let _ = verdict.set((judged, cookie));
            Ok(Hop { fields: Some(&rules.request), path: rules.path.as_ref(), ..Hop::plain("role") })
        });
        parsed.is_ok() && verdict.into_inner().is_none_or(|(judged, _)| matches!(judged, Verdict::Role(_)))
    }
}
