//! Columns for people: as wide as what is in them; the last one ends where its text does.
#![forbid(unsafe_code)]

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    lines: Vec<Line>,
}

enum Line {
    Cells(Vec<String>),
    Note(String),
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), lines: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.lines.push(Line::Cells(cells));
    }

    /// Below the row before it.
    pub(super) fn note(&mut self, text: String) {
        self.lines.push(Line::Note(text));
    }

    pub(super) fn text(&self, colour: bool) -> String {
        let heads: Vec<String> = self.columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        let cells = |line: &Line| match line {
            Line::Cells(cells) => Some(cells.clone()),
            Line::Note(_) => None,
        };
        let rows: Vec<Vec<String>> = self.lines.iter().filter_map(cells).collect();
        let width = |at: usize| rows.iter().chain([&heads]).filter_map(|row| row.get(at)).map(|cell| shown(cell)).max();
        let widths: Vec<usize> = (0..heads.len()).map(|at| width(at).unwrap_or_default()).collect();
        let head = self.line(&heads, &widths);
        let mut text = if colour { format!("\x1b[1m{}\x1b[0m\n", head.trim_end()) } else { head + "\n" };
        for line in &self.lines {
            match line {
                Line::Cells(cells) => text += &(self.line(cells, &widths) + "\n"),
                Line::Note(note) => text += &format!("  {note}\n"),
            }
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let pad = |((cell, (_, align)), width): ((&String, &(&str, Align)), &usize)| {
            let space = " ".repeat(width.saturating_sub(shown(cell)));
            if *align == Align::Left { format!("{cell}{space}") } else { format!("{space}{cell}") }
        };
        let cells: Vec<String> = cells.iter().zip(&self.columns).zip(widths).map(pad).collect();
        cells.join("  ").trim_end().to_owned()
    }
}

/// Characters that take a column: all but those of a colour.
fn shown(text: &str) -> usize {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().chars().count();
    first + parts.map(|part| part.split_once('m').map_or(0, |(_, rest)| rest.chars().count())).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_what_is_in_them() {
        let mut table = Table::new(&[("NAME", Align::Left), ("COUNT", Align::Right), ("WHERE", Align::Left)]);
        table.row(vec!["\x1b[31ma\x1b[0m".to_owned(), "1234567".to_owned(), String::new()]);
        table.note("why".to_owned());
        table.row(vec!["longer".to_owned(), "1".to_owned(), "x".to_owned()]);
        let want = "NAME      COUNT  WHERE\n\x1b[31ma\x1b[0m       1234567\n  why\nlonger        1  x\n";
        assert_eq!(table.text(false), want);
        assert!(table.text(true).starts_with("\x1b[1mNAME      COUNT  WHERE\x1b[0m\n"));
    }
}
