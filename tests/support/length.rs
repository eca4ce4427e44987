//! How long a proof lasts: seconds by default, minutes with `CONCERTINA_LONG=1`.

/// How much of something: so much in seconds, so much when there is time.
pub(crate) fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("CONCERTINA_LONG").is_some_and(|value| value == "1") { long } else { short }
}
