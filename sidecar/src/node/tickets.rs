//! Ticket keys for the proxies beside this sidecar, as long as there are any that want them.

use std::time::Duration;

use crate::{
    node::{
        link::{SharedGate, unix_ms},
        publish::Publisher,
    },
    wire::tickets::{TicketEpoch, ticket_keys},
};

/// How often it is looked whether the keys of the cluster, or the clock, have changed.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Keeps what is published right; never ends.
pub(crate) async fn keep(publisher: Publisher, gate: SharedGate, cluster: String, epoch: TicketEpoch) {
    loop {
        publisher.tickets_wanted().await;
        let now_ms = unix_ms();
        publisher.publish_tickets(ticket_keys(gate.borrow().ring(), &cluster, epoch, now_ms));
        tokio::time::sleep(LOOK_PERIOD.min(epoch.left(now_ms))).await;
    }
}
