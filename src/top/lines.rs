//! The lines of a table: what is told of each row, in columns. For the terminal and for plain text alike. Pure.

use super::table::{Cell, Column, Kind, Order, Row};

/// The columns beside that of the names, as wide as they are, in the widest table.
const OTHERS_WIDTH: usize = 58;
/// A name has at least so much room.
pub(super) const NAME_WIDTH_MIN: usize = 12;

/// How wide the column of names is for these tables, in so much room.
pub(super) fn name_width<'a>(rows: impl Iterator<Item = &'a Row>, room: usize) -> usize {
    let longest = rows.map(|row| row.name.chars().count()).max().unwrap_or_default();
    longest.min(room.saturating_sub(OTHERS_WIDTH)).max(NAME_WIDTH_MIN)
}

/// The line above a table, which says how many there are and by what they are sorted.
pub(super) fn header(kind: Kind, count: usize, order: Order, name_width: usize) -> String {
    let sign = if order.is_reversed { '▴' } else { '▾' };
    let title = |(at, column): (usize, &Column)| {
        let count = if at == 0 { format!(" {count}") } else { String::new() };
        let (before, after) = match (at == order.column, column.is_left) {
            (false, _) => (String::new(), String::new()),
            (true, true) => (String::new(), sign.to_string()),
            (true, false) => (sign.to_string(), String::new()),
        };
        let title = format!("{before}{}{count}{after}", column.title);
        let width = width(at, column, name_width);
        // The sign of a column of numbers is where the gap before it is.
        if column.is_left { format!(" {title:<width$}") } else { format!("{title:>wide$}", wide = width + 1) }
    };
    kind.columns().iter().enumerate().map(title).collect::<String>().split_off(1)
}

/// One row, in three parts: the name, the state, and the rest.
pub(super) fn row(kind: Kind, row: &Row, name_width: usize) -> [String; 3] {
    let mut cells = kind.columns().iter().zip(&row.cells).enumerate().map(|(at, (column, cell))| {
        let width = width(at, column, name_width);
        let text = if at == 0 { shortened(cell, width) } else { cell.text.clone() };
        if column.is_left { format!("{text:<width$} ") } else { format!("{text:>width$} ") }
    });
    let name = cells.next().unwrap_or_default();
    let state = cells.next().unwrap_or_default();
    [name, state, cells.collect()]
}

fn width(at: usize, column: &Column, name_width: usize) -> usize {
    if at == 0 { name_width } else { column.width.into() }
}

fn shortened(cell: &Cell, width: usize) -> String {
    if cell.text.chars().count() <= width {
        return cell.text.clone();
    }
    { cell.text.chars() }.take(width.saturating_sub(1)).chain(['…']).collect()
}
