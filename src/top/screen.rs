//! What is looked at and how: keys in, a state out. It knows no terminal.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    details,
    picture::Picture,
    table::{Kind, Order, Row, rows},
};

/// Longest filter: longer than a name, a tag and an address together.
pub(super) const FILTER_CHARS_MAX: usize = 200;

/// What the driver has to do after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    /// Everything is drawn anew: something else has written to the terminal.
    Redraw,
    /// As Ctrl-Z does for other programs.
    Suspend,
    Quit,
}

/// What covers the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    Nothing,
    Help,
    /// One node, by its name, from this line on.
    Details(String, usize),
}

/// A table as it is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Panel {
    pub(super) order: Order,
    /// By name, so that it stays where it is when the order changes.
    pub(super) chosen: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) panels: [Panel; 3],
    pub(super) focus: Kind,
    pub(super) filter: String,
    /// The filter is being written.
    pub(super) is_writing: bool,
    pub(super) is_paused: bool,
    pub(super) over: Over,
    pub(super) picture: Option<Picture>,
    /// Why there is nothing newer.
    pub(super) trouble: Option<String>,
    /// That another node is asked by now.
    pub(super) note: Option<String>,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            panels: Default::default(),
            focus: Kind::Nodes,
            filter: String::new(),
            is_writing: false,
            is_paused: false,
            over: Over::Nothing,
            picture: None,
            trouble: None,
            note: None,
        }
    }
}

impl Screen {
    /// Shows something newer.
    pub(super) fn show(&mut self, picture: Picture) {
        if !self.is_paused {
            self.picture = Some(picture);
        }
        self.trouble = None;
    }

    /// The rows of a table.
    pub(super) fn rows(&self, kind: Kind) -> Vec<Row> {
        let order = self.panels[kind as usize].order;
        self.picture.as_ref().map(|picture| rows(picture, kind, &self.filter, order)).unwrap_or_default()
    }

    /// Where the chosen row is among these: the first one, until another is chosen.
    pub(super) fn position(&self, kind: Kind, rows: &[Row]) -> usize {
        let chosen = self.panels[kind as usize].chosen.as_ref();
        chosen.and_then(|name| rows.iter().position(|row| row.name == *name)).unwrap_or_default()
    }

    /// Takes a key where a page has so many lines.
    pub(super) fn press(&mut self, key: KeyEvent, page: usize) -> Then {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Then::Quit,
                KeyCode::Char('l') => Then::Redraw,
                KeyCode::Char('z') => Then::Suspend,
                _ => Then::GoOn,
            };
        }
        if self.is_writing {
            self.write(key.code);
            return Then::GoOn;
        }
        match &self.over {
            Over::Nothing => self.press_in_tables(key.code, page),
            Over::Help => {
                self.over = Over::Nothing;
                Then::GoOn
            }
            Over::Details(name, line) => {
                let (name, line) = (name.clone(), *line);
                self.press_in_details(key.code, name, line, page);
                Then::GoOn
            }
        }
    }

    fn write(&mut self, key: KeyCode) {
        match key {
            KeyCode::Esc => {
                self.filter.clear();
                self.is_writing = false;
            }
            KeyCode::Enter => self.is_writing = false,
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.push(c);
            }
            _ => {}
        }
    }

    fn press_in_tables(&mut self, key: KeyCode, page: usize) -> Then {
        let page = isize::try_from(page.max(1)).unwrap_or(isize::MAX);
        let panel = &mut self.panels[self.focus as usize];
        let columns = self.focus.columns().len();
        match key {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.over = Over::Help,
            KeyCode::Char(' ' | 'p') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.is_writing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('s' | '>') | KeyCode::Right => {
                panel.order = Order { column: (panel.order.column + 1) % columns, is_reversed: false };
            }
            KeyCode::Char('S' | '<') | KeyCode::Left => {
                panel.order =
                    Order { column: (panel.order.column + columns - 1) % columns, is_reversed: false };
            }
            KeyCode::Char('r') => panel.order.is_reversed = !panel.order.is_reversed,
            KeyCode::Tab => self.focus = Kind::ALL[(self.focus as usize + 1) % 3],
            KeyCode::BackTab => self.focus = Kind::ALL[(self.focus as usize + 2) % 3],
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::PageDown => self.move_by(page),
            KeyCode::PageUp => self.move_by(-page),
            KeyCode::Home => self.move_by(isize::MIN),
            KeyCode::End => self.move_by(isize::MAX),
            KeyCode::Enter => self.open(),
            _ => {}
        }
        Then::GoOn
    }

    fn press_in_details(&mut self, key: KeyCode, name: String, line: usize, page: usize) {
        let lines = self.picture.as_ref().map_or(0, |picture| details::lines(picture, &name).len());
        let last = lines.saturating_sub(page.max(1));
        let line = match key {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => {
                self.over = Over::Nothing;
                return;
            }
            KeyCode::Char(' ' | 'p') => {
                self.is_paused = !self.is_paused;
                line
            }
            KeyCode::Down | KeyCode::Char('j') => line + 1,
            KeyCode::Up | KeyCode::Char('k') => line.saturating_sub(1),
            KeyCode::PageDown => line + page,
            KeyCode::PageUp => line.saturating_sub(page),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => line,
        };
        self.over = Over::Details(name, line.min(last));
    }

    fn move_by(&mut self, by: isize) {
        let rows = self.rows(self.focus);
        let position = self.position(self.focus, &rows).saturating_add_signed(by);
        let row = rows.get(position.min(rows.len().saturating_sub(1)));
        self.panels[self.focus as usize].chosen = row.map(|row| row.name.clone());
    }

    /// A node's details; of a role, its nodes.
    fn open(&mut self) {
        let rows = self.rows(self.focus);
        let Some(row) = rows.get(self.position(self.focus, &rows)) else { return };
        self.panels[self.focus as usize].chosen = Some(row.name.clone());
        match self.focus {
            Kind::Roles => {
                self.filter = row.name.clone();
                self.focus = Kind::Nodes;
            }
            Kind::Nodes | Kind::Proxies => self.over = Over::Details(row.name.clone(), 0),
        }
    }
}
