//! The terminal: taken, drawn on, and given back as it was, however this ends.

use std::{
    cell::Cell,
    io::{self, BufWriter, IsTerminal, Stdout},
    panic,
    process::ExitCode,
    rc::Rc,
    sync::Once,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, event,
        event::{Event, KeyEventKind},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::spawn_local,
};

use super::{
    draw::{Theme, draw, page},
    look::Look,
    picture::Picture,
    screen::{Screen, Then},
    source::{At, look},
    whom::Whom,
};

/// What a shell shows of a program that a signal has ended.
const ENDED_BY_SIGNAL: u8 = 128;
/// A screen is written at once, where it is not greater than any that people have.
const FRAME_BYTES: usize = 64 * 1024;

/// Whether there is a terminal to draw on; if not, what would do instead.
pub(super) fn check() -> anyhow::Result<()> {
    let instead = "--once prints it as text, --json for programs";
    if !io::stdout().is_terminal() {
        bail!("concertina top draws on a terminal, and the standard output is none: {instead}");
    }
    let term = std::env::var("TERM").unwrap_or_default();
    if term.is_empty() || term == "dumb" {
        bail!("concertina top draws on a terminal, and this one cannot be drawn on (TERM={term}): {instead}");
    }
    Ok(())
}

fn theme() -> Theme {
    let is_set = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Theme { has_colours: !is_set }
}

/// The terminal, while it is drawn on.
struct Session(Terminal<CrosstermBackend<BufWriter<Stdout>>>);

impl Session {
    fn begin() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let told = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                give_back();
                told(panic);
            }));
        });
        enable_raw_mode()?;
        let whole = BufWriter::with_capacity(FRAME_BYTES, io::stdout());
        let begun = execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(whole)));
        begun.map(Self).inspect_err(|_| give_back())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        give_back();
    }
}

/// Nothing can be done where it fails: then there is no terminal any more.
fn give_back() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

/// Stops as Ctrl-Z stops other programs, until somebody has this one go on.
fn suspend(session: Session) -> io::Result<Session> {
    drop(session);
    kill_process(getpid(), Signal::STOP)?;
    Session::begin()
}

/// What keys and sizes there are, from a thread: reading them waits.
fn events() -> mpsc::UnboundedReceiver<io::Result<Event>> {
    let (outbox, inbox) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if outbox.send(event).is_err() || is_over {
                return;
            }
        }
    });
    inbox
}

/// What was seen, and what is to be said of who was asked; or why nothing was.
type Seen = Result<(Look, Option<String>), String>;

/// Looks once. How long to wait before the next look.
async fn see(whom: &mut Whom, every: Duration) -> (Seen, Duration) {
    let begun = Instant::now();
    let seen = look(whom.at()).await.map_err(|error| format!("{error:#}"));
    let now = Instant::now();
    let seen = seen.and_then(|look| whom.handle_answer(&look.state, now).map(|()| look));
    match seen {
        Ok(look) => {
            let note = whom.note(&look.state, now);
            (Ok((look, note)), every.saturating_sub(begun.elapsed()))
        }
        Err(why) => {
            let (told, pause) = whom.handle_failure(&why, begun, now);
            (Err(told), pause)
        }
    }
}

/// Looks again and again, and tells what was seen or why not.
fn looks(at: At, every: Duration, is_paused: Rc<Cell<bool>>) -> mpsc::Receiver<Seen> {
    let (outbox, inbox) = mpsc::channel(1);
    spawn_local(async move {
        let mut whom = Whom::new(at);
        loop {
            let mut pause = every;
            if !is_paused.get() {
                let seen;
                (seen, pause) = see(&mut whom, every).await;
                if outbox.send(seen).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(pause).await;
        }
    });
    inbox
}

/// Shows the cluster until it is told to end.
pub(super) async fn show(at: At, every: Duration) -> anyhow::Result<ExitCode> {
    let mut session = Session::begin().context("the terminal cannot be drawn on")?;
    let (mut screen, mut last, theme) = (Screen::default(), None, theme());
    let is_paused = Rc::new(Cell::new(false));
    let (mut looks, mut events) = (looks(at, every, is_paused.clone()), events());
    let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
    let [mut hangup, mut interrupt, mut quit, mut terminate] = {
        let [a, b, c, d] = kinds.map(signal);
        [a?, b?, c?, d?]
    };
    loop {
        session.0.draw(|frame| draw(frame, &screen, theme)).context("the terminal cannot be drawn on")?;
        let ended_by = tokio::select! {
            event = events.recv() => {
                let event = event.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
                let Event::Key(key) = event.context("the terminal says nothing any more")? else { continue };
                if key.kind == KeyEventKind::Release {
                    continue;
                }
                let height = session.0.size()?.height;
                match screen.press(key, page(&screen, height)) {
                    Then::GoOn => {}
                    Then::Redraw => session.0.clear()?,
                    Then::Suspend => session = suspend(session)?,
                    Then::Quit => return Ok(ExitCode::SUCCESS),
                }
                is_paused.set(screen.is_paused);
                continue;
            }
            Some(told) = looks.recv() => {
                match told {
                    Ok((look, note)) => {
                        screen.show(Picture::of(last.as_ref(), &look));
                        screen.note = note;
                        last = Some(look);
                    }
                    Err(why) => screen.trouble = Some(why),
                }
                continue;
            }
            _ = hangup.recv() => 1,
            _ = interrupt.recv() => 2,
            _ = quit.recv() => 3,
            _ = terminate.recv() => 15,
        };
        return Ok(ExitCode::from(ENDED_BY_SIGNAL + ended_by));
    }
}
