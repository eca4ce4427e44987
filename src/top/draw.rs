//! What the terminal shows. It only draws: what is looked at is in [`Screen`].

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use super::{
    details, lines,
    screen::{Over, Screen},
    summary,
    table::{Kind, Row, Tone},
};
use crate::say::escaped;

/// The smallest terminal in which anything is shown.
const WIDTH_MIN: u16 = 40;
const HEIGHT_MIN: u16 = 8;
/// Lines that are not the tables': the title, what there is to say, and the keys.
const AROUND: usize = 3;
/// Rows that a table keeps while another has the focus, if it has them.
const ROWS_KEPT: usize = 3;

const KEYS: &str = "? help  q quit  / filter  s sort  r reverse  ⏎ details  space pause  tab table";

const HELP: [&str; 21] = [
    "Tab            the next table; Shift-Tab the one before",
    "↑ ↓  PgUp PgDn choose a row; Home and End the first and the last",
    "Enter          a node's details; of a role, its nodes",
    "s  S           sort by the next column, by the one before; also → and ←",
    "r              the other way round",
    "/              show what has this in its name, role, state, address or tags",
    "Esc            no filter, or back",
    "Space          pause, and go on",
    "Ctrl-L         draw everything anew",
    "q              quit",
    "",
    "req/s          requests given to a node, retries too; of proxies, the answered",
    "p50 p99 mean   until the answer begins, of requests since the last look",
    "now            requests, connections and flows under way",
    "queue          requests that wait because all endpoints are at their limit",
    "err/s          no whole answer, or 5xx",
    "retry/s        further attempts for requests that an endpoint had failed",
    "eject          how often a node was spared for a while because it failed",
    "–              not known: nobody counts it, or there is nothing yet",
    "● ready  ◔ joining or checking  ◌ alone  ▼ draining  ◆ unhealthy  ○ left",
    "✕ failed",
];

/// Whether there are colours. What they say is said in words, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) has_colours: bool,
}

impl Theme {
    fn tone(self, tone: Tone) -> Style {
        if !self.has_colours {
            return Style::new();
        }
        match tone {
            Tone::Good => Style::new().fg(Color::Green),
            Tone::Waiting => Style::new().fg(Color::Yellow),
            Tone::Bad => Style::new().fg(Color::Red),
            Tone::Quiet => Style::new().add_modifier(Modifier::DIM),
        }
    }
}

/// How many rows the tables have in so much room: what they want if they may, else the one that is looked at has most.
fn shares(wanted: [usize; 3], focus: Kind, room: usize) -> [usize; 3] {
    let mut shares = [0; 3];
    let mut left = room;
    let mut grant = |shares: &mut [usize; 3], at: usize, most: usize| {
        let granted = wanted[at].min(most).saturating_sub(shares[at]).min(left);
        shares[at] += granted;
        left -= granted;
    };
    let focus = focus as usize;
    grant(&mut shares, focus, ROWS_KEPT);
    (0..3).for_each(|at| grant(&mut shares, at, ROWS_KEPT));
    grant(&mut shares, focus, usize::MAX);
    (0..3).for_each(|at| grant(&mut shares, at, usize::MAX));
    shares
}

/// The rows of all tables, and how many of each are seen in a terminal of this height.
fn seen(screen: &Screen, height: u16) -> ([Vec<Row>; 3], [usize; 3]) {
    let rows = Kind::ALL.map(|kind| screen.rows(kind));
    // Each table has a header, and the second and third a blank line before it.
    let room = usize::from(height).saturating_sub(AROUND + 5);
    let shares = shares([0, 1, 2].map(|at| rows[at].len()), screen.focus, room);
    (rows, shares)
}

/// How many lines a page has in a terminal of this height.
pub(super) fn page(screen: &Screen, height: u16) -> usize {
    match screen.over {
        Over::Nothing => seen(screen, height).1[screen.focus as usize],
        Over::Help | Over::Details(..) => usize::from(height).saturating_sub(AROUND),
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen, theme: Theme) {
    let area = frame.area();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        let text = format!("{WIDTH_MIN} × {HEIGHT_MIN} at least");
        frame.render_widget(Line::raw(text), Rect { height: area.height.min(1), ..area });
        return;
    }
    let mut all = vec![title(screen), status(screen, theme)];
    let height = usize::from(area.height);
    match &screen.over {
        Over::Nothing => all.extend(tables(screen, area, theme)),
        Over::Help => all.extend(HELP.map(Line::raw)),
        Over::Details(name, from) => {
            let picture = screen.picture.as_ref();
            let lines = picture.map(|picture| details::lines(picture, name)).unwrap_or_default();
            all.extend(lines.into_iter().skip(*from).map(Line::raw));
        }
    }
    all.truncate(height - 1);
    all.resize(height - 1, Line::default());
    all.push(footer(screen));
    for (y, line) in (area.y..).zip(all) {
        let is_cut = line.width() > usize::from(area.width);
        frame.render_widget(line, Rect { y, height: 1, ..area });
        if is_cut {
            frame.buffer_mut()[(area.right() - 1, y)].set_symbol("…");
        }
    }
}

fn title(screen: &Screen) -> Line<'static> {
    let what = match &screen.over {
        Over::Nothing => None,
        Over::Help => Some("help".to_owned()),
        Over::Details(name, _) => Some(escaped(name).to_string()),
    };
    let whole = screen.picture.as_ref().map_or_else(|| "concertina top".to_owned(), summary::cluster);
    let text = what.into_iter().chain([whole]).collect::<Vec<_>>().join(" · ");
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

/// What keeps the picture from being new and whole.
fn status(screen: &Screen, theme: Theme) -> Line<'static> {
    if let Some(trouble) = &screen.trouble {
        return Line::styled(escaped(trouble).to_string(), theme.tone(Tone::Bad));
    }
    if screen.is_paused {
        return Line::styled("PAUSED: space goes on", Style::new().add_modifier(Modifier::BOLD));
    }
    let missing = screen.picture.as_ref().and_then(summary::missing);
    let told: Vec<String> = screen.note.clone().into_iter().chain(missing).collect();
    Line::styled(told.join(" · "), theme.tone(Tone::Waiting))
}

fn footer(screen: &Screen) -> Line<'static> {
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    if screen.is_writing {
        return Line::from(vec![
            Span::raw(format!("filter: {}", escaped(&screen.filter))),
            Span::styled(" ", reversed),
            Span::raw("  ⏎ keeps it, esc drops it"),
        ]);
    }
    match (&screen.over, screen.filter.is_empty()) {
        (Over::Nothing, true) => Line::raw(KEYS),
        (Over::Nothing, false) => {
            Line::raw(format!("filter: {}  esc drops it  ? help  q quit", escaped(&screen.filter)))
        }
        (Over::Help, _) => Line::raw("any key goes back"),
        (Over::Details(..), _) => Line::raw("↑↓ scroll  space pause  esc back"),
    }
}

fn tables(screen: &Screen, area: Rect, theme: Theme) -> Vec<Line<'static>> {
    if screen.picture.is_none() {
        return vec![Line::raw("looking …")];
    }
    let (rows, shares) = seen(screen, area.height);
    let name_width = lines::name_width(rows.iter().flatten(), usize::from(area.width) - 1);
    let mut all = Vec::new();
    for (kind, (rows, share)) in Kind::ALL.into_iter().zip(rows.iter().zip(shares)) {
        if kind != Kind::Roles {
            all.push(Line::default());
        }
        let order = screen.panels[kind as usize].order;
        let is_focus = kind == screen.focus;
        let look = if is_focus { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::UNDERLINED };
        let header = lines::header(kind, rows.len(), order, name_width);
        all.push(Line::styled(format!(" {header}"), Style::new().add_modifier(look)));
        let position = screen.position(kind, rows);
        let from = if is_focus { (position + 1).saturating_sub(share) } else { 0 };
        for (at, row) in rows.iter().enumerate().skip(from).take(share) {
            all.push(line(kind, row, name_width, is_focus && at == position, theme));
        }
    }
    all
}

fn line(kind: Kind, row: &Row, name_width: usize, is_chosen: bool, theme: Theme) -> Line<'static> {
    let [name, state, rest] = lines::row(kind, row, name_width);
    let marker = if is_chosen { ">" } else { " " };
    let spans = vec![
        Span::raw(format!("{marker}{name}")),
        Span::styled(state, theme.tone(row.tone)),
        Span::raw(rest),
    ];
    let look = if is_chosen { Modifier::REVERSED } else { Modifier::empty() };
    Line::from(spans).style(Style::new().add_modifier(look))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_what_they_want_or_the_one_that_is_looked_at_has_most() {
        for (wanted, focus, room, granted) in [
            ([2, 4, 1], Kind::Nodes, 20, [2, 4, 1]),
            ([9, 200, 9], Kind::Nodes, 16, [3, 10, 3]),
            ([9, 200, 9], Kind::Roles, 16, [9, 4, 3]),
            // What the focus leaves is the others'.
            ([9, 200, 1], Kind::Proxies, 16, [9, 6, 1]),
            ([9, 200, 9], Kind::Proxies, 2, [0, 0, 2]),
            ([9, 200, 9], Kind::Nodes, 0, [0, 0, 0]),
        ] {
            assert_eq!(shares(wanted, focus, room), granted, "{wanted:?} {focus:?} {room}");
        }
    }
}
