//! Tables, for eyes and for files.

use std::fmt::Write as _;

/// One value, as shown.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    is_number: bool,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_number: false }
    }

    pub(crate) fn number(value: f64, digits: usize) -> Self {
        Self { text: format!("{value:.digits$}"), is_number: true }
    }

    /// For what was not measured: a dash in a column of numbers.
    pub(crate) fn number_or_dash(value: Option<f64>, digits: usize) -> Self {
        value.map_or_else(|| Self { text: "-".into(), is_number: true }, |value| Self::number(value, digits))
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(title: &str, columns: &[&str]) -> Self {
        Self { title: title.to_owned(), columns: columns.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Aligned, numbers to the right.
    pub(crate) fn aligned(&self) -> String {
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].text.len());
            cells.chain([self.columns[at].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut out = format!("{}\n", self.title);
        let titles = self.columns.iter().map(|column| Cell::text(column.as_str())).collect();
        for row in [&titles].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let right = self.rows.first().is_some_and(|row| row[at].is_number);
                // Writing to a String cannot fail.
                let _ = if right {
                    write!(line, "  {:>width$}", cell.text)
                } else {
                    write!(line, "  {:<width$}", cell.text)
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// Tab-separated, with the table's first word in front of every row.
    pub(crate) fn tabs(&self) -> String {
        let name = self.title.split(':').next().unwrap_or_default();
        let mut out = format!("# {}\n#\t{}\n", self.title, self.columns.join("\t"));
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(|cell| cell.text.as_str()).collect();
            let _ = writeln!(out, "{name}\t{}", cells.join("\t"));
        }
        out
    }
}
