//! A line of text by its format -> its values: what reads back that we write, and what AWS writes.
//! Must not forgive: a line that it takes is printed back as it was.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::{Field, Format, Type, Value};

/// Which value, from 1, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("value {place} ({name}) {why}")]
pub(crate) struct LineError {
    place: usize,
    name: &'static str,
    why: &'static str,
}

pub(crate) fn read<'a>(format: &Format, line: &'a str) -> Result<Vec<Value<'a>>, LineError> {
    let fields = format.fields();
    let words: Vec<&str> = line.split(' ').collect();
    if words.len() > fields.len() {
        return Err(LineError { place: fields.len() + 1, name: "-", why: "is one too many" });
    }
    let one = |(at, field): (usize, &&'static Field)| {
        let refuse = |why| LineError { place: at + 1, name: field.name, why };
        let word = words.get(at).ok_or_else(|| refuse("is missing"))?;
        value(field, word).map_err(refuse)
    };
    fields.iter().enumerate().map(one).collect()
}

fn value<'a>(field: &Field, word: &'a str) -> Result<Value<'a>, &'static str> {
    let number = || word.parse::<u64>().ok().filter(|number| number.to_string() == word);
    match (word, field.name, field.kind) {
        ("", ..) => Err("is empty"),
        ("-", ..) => Ok(Value::Absent),
        (_, "srcaddr" | "dstaddr" | "pkt-srcaddr" | "pkt-dstaddr", _) => {
            let address = word.parse::<IpAddr>().ok().filter(|address| address.to_string() == word);
            address.map(Value::Address).ok_or("is no address")
        }
        (_, "start" | "end", _) => {
            let seconds = number().and_then(|number| i64::try_from(number).ok());
            seconds.map(Value::Seconds).ok_or("is no time")
        }
        (.., Type::Text) => Ok(Value::Text(word)),
        (.., Type::Int32) => {
            let small = number().filter(|&number| i32::try_from(number).is_ok());
            small.map(Value::Number).ok_or("is no 32-bit number")
        }
        (.., Type::Int64) => number().map(Value::Number).ok_or("is no number"),
    }
}
