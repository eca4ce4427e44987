//! The tables as plain text, for files, pipes and programs that read columns. Pure.

use super::{
    lines,
    picture::Picture,
    summary,
    table::{Kind, Order, rows},
};

/// All of it, with names and notes as long as they are.
pub(super) fn text(picture: &Picture) -> String {
    let tables = Kind::ALL.map(|kind| (kind, rows(picture, kind, "", Order::default())));
    let name_width = lines::name_width(tables.iter().flat_map(|(_, rows)| rows), usize::MAX);
    let mut text = vec![summary::cluster(picture)];
    text.extend(summary::missing(picture));
    for (kind, rows) in &tables {
        text.push(String::new());
        text.push(lines::header(*kind, rows.len(), Order::default(), name_width).replace('▾', " "));
        text.extend(rows.iter().map(|row| lines::row(*kind, row, name_width).concat()));
    }
    text.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}
