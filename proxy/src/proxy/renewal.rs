//! Certificates and authorities whose files change while a proxy runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Proxy, open};
use crate::certificates::{OriginsError, Watch};

/// How often files are looked at: what was written is taken within two seconds, at the second look if need be.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

impl Proxy {
    /// Takes certificates and authorities anew whose files have changed; never ends.
    pub async fn keep_certificates(&self) {
        let mut looks = tokio::time::interval(LOOK_PERIOD);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watch = Watch::default();
        loop {
            looks.tick().await;
            self.certificates.tickets().forget_old(Instant::now());
            let (taken, wrong) = self.certificates.look();
            if taken > 0 {
                tracing::info!(count = taken, "certificates taken anew");
            }
            for error in wrong {
                tracing::error!(%error, "a certificate is not taken, the one before goes on");
            }
            for error in self.take_authorities(&mut watch).await {
                tracing::error!(%error, "authorities of upstreams are not taken, those before go on");
            }
        }
    }

    /// Has all workers believe authorities whose files have changed; what is wrong with others.
    pub(super) async fn take_authorities(&self, watch: &mut Watch) -> Vec<OriginsError> {
        let _changing = self.changing.lock().await;
        let (plan, ids, origins) = {
            let current = self.current();
            (current.plan.clone(), current.doors.clone(), current.origins.clone())
        };
        let (renewed, wrong) = origins.look(watch);
        let Some(renewed) = renewed.map(Arc::new) else { return wrong };
        // All of its listeners are open, so that none is opened.
        let doors = open(&ids, &plan.listen, &ids, self.workers.len(), &mut self.held());
        self.sources.apply_origins(&renewed).await;
        self.order(&plan, &renewed, doors.unwrap_or_default()).await;
        self.current().origins = renewed;
        tracing::info!("authorities of upstreams taken anew");
        wrong
    }
}
