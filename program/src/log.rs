//! The log: what is said, and in which words that is asked for.

use std::env;

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

/// The variable that says what is logged.
pub const LOG_VARIABLE: &str = "CONCERTINA_LOG";

/// The variable that says in which form: `text`, or `json` for an object a line.
pub const FORMAT_VARIABLE: &str = "CONCERTINA_LOG_FORMAT";

/// What is logged unless told otherwise. The DNS library would log two lines for each query, and that of HTTP/2 one for each frame of a client that
/// is odd in some ways.
const DEFAULT: &str = "info,hickory_proto=error,h2=error";

/// Sends the log to stderr. What the variable says in vain is told there.
pub(crate) fn start() {
    let wish = env::var(LOG_VARIABLE).unwrap_or_default();
    let (filter, refused) = match filter(&wish) {
        Ok(filter) => (filter, None),
        Err(why) => (usual(), Some(why)),
    };
    let format = env::var(FORMAT_VARIABLE).unwrap_or_default();
    let lines = fmt::layer()
        .with_writer(crate::stderr)
        // They would go to `eprintln!`, which panics where stderr cannot be written, and waits where it is stuck.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(false);
    let lines = match format.as_str() {
        "json" => lines.json().flatten_event(true).boxed(),
        _ => lines.boxed(),
    };
    // A test may have a log already.
    let _ = registry().with(filter).with(lines).try_init();
    if !["", "text", "json"].contains(&format.as_str()) {
        tracing::warn!("{FORMAT_VARIABLE}={format:?} is not understood: expected text or json; logging text");
    }
    if let Some(why) = refused {
        tracing::warn!("{why}; logging info and above");
    }
}

/// Reads a level, or several with targets, such as `proxy=debug`, each a change of the default.
fn filter(wish: &str) -> Result<Targets, String> {
    let wish = wish.trim();
    if wish.is_empty() {
        return Ok(usual());
    }
    let refused = || {
        format!(
            "{LOG_VARIABLE}={wish:?} is not understood: expected off, error, warn, info, debug or trace, \
             or some with a target, such as info,proxy=debug"
        )
    };
    // A word alone that is no level would be taken for a target, and an empty level for error.
    let is_clear = |directive: &str| {
        let (target, level) = directive.trim().rsplit_once('=').unwrap_or(("_", directive.trim()));
        let is_level = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        let is_target = |target: &str| target.chars().all(|c| c.is_alphanumeric() || "_:-".contains(c));
        is_level && !target.is_empty() && is_target(target)
    };
    if !wish.split(',').all(is_clear) {
        return Err(refused());
    }
    format!("{DEFAULT},{wish}").parse().map_err(|_| refused())
}

/// What is logged where nobody has a wish.
fn usual() -> Targets {
    DEFAULT.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_understood_and_empty_is_the_default() {
        for good in ["", " ", "off", "WARN", "debug", "info,proxy=debug", "hickory_server=debug,warn"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert_eq!(filter("").unwrap().to_string(), filter("info").unwrap().to_string());
    }

    #[test]
    fn what_is_no_level_is_refused_with_the_words_that_are() {
        for bad in ["warning", "loud", "info,", "proxy", "proxy=loud", "info proxy=debug", "=", "[=info"] {
            let error = filter(bad).expect_err(bad);
            assert!(error.contains("error, warn, info, debug or trace"), "{error}");
        }
    }
}
