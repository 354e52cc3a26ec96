//! Lines, and where in them each value ends.
//! Always: every line has a value for each column, which is a number where the column is one of numbers, or `-`.
#![forbid(unsafe_code)]

use bytes::Bytes;

use crate::format::{Format, Type};

pub(super) struct Rows {
    kinds: Vec<Type>,
    /// A byte after each value.
    text: Vec<u8>,
    /// Of every value, row by row.
    ends: Vec<u32>,
}

/// No more come.
pub(super) struct Done {
    kinds: Vec<Type>,
    text: Bytes,
    ends: Vec<u32>,
}

impl Rows {
    pub(super) fn new(format: &Format) -> Self {
        Self { kinds: format.fields().iter().map(|field| field.kind).collect(), text: Vec::new(), ends: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Says whether the line is a row, and else leaves it out.
    pub(super) fn push(&mut self, line: &[u8]) -> bool {
        let (text_before, ends_before) = (self.text.len(), self.ends.len());
        self.text.extend_from_slice(line);
        self.text.push(b'\n');
        let mut kinds = self.kinds.iter();
        let mut end = text_before;
        let is_row = line.split(|byte| *byte == b' ').all(|value| {
            end += value.len();
            self.ends.push(end as u32);
            end += 1;
            kinds.next().is_some_and(|kind| holds(*kind, value))
        });
        let is_row = is_row && kinds.next().is_none();
        if !is_row {
            self.text.truncate(text_before);
            self.ends.truncate(ends_before);
        }
        is_row
    }

    /// What is there, and begins anew.
    pub(super) fn take(&mut self) -> Done {
        let (text, ends) = (std::mem::take(&mut self.text).into(), std::mem::take(&mut self.ends));
        Done { kinds: self.kinds.clone(), text, ends }
    }
}

impl Done {
    pub(super) fn len(&self) -> usize {
        self.ends.len() / self.kinds.len().max(1)
    }

    /// One for each row.
    pub(super) fn column(&self, at: usize) -> impl Iterator<Item = Bytes> {
        let column = (at..self.ends.len()).step_by(self.kinds.len().max(1));
        column.map(|at| {
            let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize + 1);
            self.text.slice(start..self.ends[at] as usize)
        })
    }
}

fn holds(kind: Type, value: &[u8]) -> bool {
    match kind {
        Type::Int32 => value == b"-" || number::<i32>(value).is_some(),
        Type::Int64 => value == b"-" || number::<i64>(value).is_some(),
        Type::Text => !value.is_empty() && str::from_utf8(value).is_ok(),
    }
}

pub(super) fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    str::from_utf8(value).ok()?.parse().ok()
}
