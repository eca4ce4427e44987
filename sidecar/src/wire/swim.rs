//! How fast this cluster's SWIM is.

use std::{
    num::{NonZeroU8, NonZeroU32, NonZeroUsize},
    time::Duration,
};

use crate::wire::packet::PAYLOAD_BYTES_MAX;

/// Sizes at which the settings change: following every single member would change them all the time.
pub(crate) fn size_class(members: usize) -> u32 {
    members.max(1).ilog2()
}

/// SWIM for containers on one network: a probe every 0.4 s, a suspect has a second to object (twenty rounds of gossip), growing with
/// the logarithm of the cluster as memberlist's does. Of 32, a frozen one is out after 1.58 + 1 periods and 1.5 s.
pub(crate) fn foca_config(members: usize) -> foca::Config {
    let size = u32::try_from(members).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    let lan = foca::Config::new_lan(size);
    let log10 = f64::from(size.get()).log10().max(1.0);
    let three = NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN);
    foca::Config {
        probe_period: Duration::from_millis(400),
        probe_rtt: Duration::from_millis(200),
        suspect_to_down_after: Duration::from_millis(1000).mul_f64(log10),
        // foca's formula sends each update half as often as memberlist does in small clusters.
        max_transmissions: lan.max_transmissions.max(NonZeroU8::new(8).unwrap_or(NonZeroU8::MIN)),
        max_packet_size: NonZeroUsize::new(PAYLOAD_BYTES_MAX).unwrap_or(NonZeroUsize::MIN),
        periodic_gossip: Some(foca::PeriodicParams {
            frequency: Duration::from_millis(50),
            num_members: three,
        }),
        ..lan
    }
}
