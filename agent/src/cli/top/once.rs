//! The table once: aligned text, or JSON.
//! Must not know of terminals.
//! Always: counts are exact, as in the records; a rate is over the time between two looks.
#![forbid(unsafe_code)]

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::names::{Ends, Names};
use super::rates::{Rate, Rated};
use super::{ask, head};
use crate::cli::table::{Align, Table};
use crate::cli::{Failure, say, say_json};
use crate::flows::{Answer, Query, Row, action, protocol};

pub(super) const ROWS: usize = 20;
/// Looks, when each falls just behind the end of a window.
const TRIES: usize = 3;

pub(super) fn run(socket: &Path, query: &Query, interval: Duration, as_json: bool) -> Result<(), Failure> {
    let rated = look(interval, || ask(socket, query).map_err(|error| Failure::Run(error.to_string())))?;
    if as_json { say_json(&value(&rated)) } else { say(&text(&rated, query)) }
}

/// Rates over at least half of the interval.
fn look<E>(interval: Duration, mut ask: impl FnMut() -> Result<Answer, E>) -> Result<Rated, E> {
    let mut before = ask()?;
    let mut rated = Rated::default();
    for _ in 0..TRIES {
        thread::sleep(interval);
        let now = ask()?;
        rated = Rated::new(Some(&before), now.clone());
        if rated.seconds.is_some_and(|seconds| seconds * 2.0 >= interval.as_secs_f64()) {
            break;
        }
        before = now;
    }
    Ok(rated)
}

/// The agent's answer with rates in it.
fn value(rated: &Rated) -> Value {
    let mut value = json!(rated.answer);
    let rates = |rate: Option<Rate>| (rate.map(|rate| rate.packets), rate.map(|rate| rate.bytes));
    let rows = value["flows"].as_array_mut().into_iter().flatten();
    for (row, rate) in rows.zip(&rated.flows) {
        let (packets, bytes) = rates(*rate);
        (row["packets_per_second"], row["bytes_per_second"]) = (json!(packets), json!(bytes));
    }
    let (packets, bytes) = rates(rated.sum);
    value["rates"] = json!({ "seconds": rated.seconds, "packets_per_second": packets, "bytes_per_second": bytes });
    value
}

fn text(rated: &Rated, query: &Query) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("INTERFACE", Left),
        ("DIR", Left),
        ("ACTION", Left),
        ("PROTO", Left),
        ("SOURCE", Left),
        ("DESTINATION", Left),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("PACKETS/S", Right),
        ("BYTES/S", Right),
    ]);
    let names = Names::default();
    for (row, rate) in rated.answer.flows.iter().zip(&rated.flows) {
        let Row { interface, direction, action: verdict, protocol: number, packets, bytes, .. } = row;
        let (source, destination) = names.ends(row, Ends::Addresses);
        let shown =
            |value: fn(&Rate) -> f64| rate.as_ref().map_or("-".to_owned(), |rate| format!("{:.0}", value(rate)));
        table.row(vec![
            interface.clone(),
            head::way(*direction).to_owned(),
            action(*verdict).to_owned(),
            protocol(*number).into_owned(),
            source,
            destination,
            packets.to_string(),
            bytes.to_string(),
            shown(|rate| rate.packets),
            shown(|rate| rate.bytes),
        ]);
    }
    let head = [head::about(&rated.answer, &head::hostname()), head::window(&rated.answer), head::sums(rated, query)];
    format!("{}\n\n{}", head.join("\n"), table.text(false))
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::{answer, row};
    use super::*;
    use crate::capture::flow::Verdict;
    use std::convert::Infallible;

    fn rated() -> Rated {
        let before = answer(0, 5_000, vec![row(1, Verdict::Accept, 10)]);
        let now = answer(0, 7_000, vec![row(1, Verdict::Accept, 30), row(2, Verdict::Reject, 5)]);
        Rated::new(Some(&before), now)
    }

    #[test]
    fn text_is_aligned_and_exact() {
        let text = text(&rated(), &Query::default());
        let table = text.split_once("\n\n").unwrap().1;
        let want = "\
INTERFACE  DIR  ACTION  PROTO  SOURCE      DESTINATION   PACKETS  BYTES  PACKETS/S  BYTES/S
eth0       in   ACCEPT  tcp    10.0.0.1:1  10.0.0.2:443       30   3000         10     1000
eth0       in   REJECT  tcp    10.0.0.1:2  10.0.0.2:443        5    500          2      250
";
        assert_eq!(table, want);
        assert!(text.contains("\nwindow     1970-01-01T00:00:00Z to 1970-01-01T00:00:59Z\n"), "{text}");
        assert!(
            text.contains(
                "\n2 flows, 35 packets, 3500 bytes; 12 packets/s, 1250 B/s, 2 refused packets/s; sorted by bytes\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn json_is_the_answer_with_rates() {
        let value = value(&rated());
        assert_eq!(value["flows"][0]["packets_per_second"], 10.0);
        assert_eq!((&value["flows"][1]["action"], &value["flows"][1]["packets"]), (&json!("REJECT"), &json!(5)));
        assert_eq!((&value["rates"]["seconds"], &value["matched"]["flows"]), (&json!(2.0), &json!(2)));
    }

    /// Windows end all the time: it looks again until it has seen enough of one.
    #[test]
    fn a_rate_is_not_over_a_moment() {
        let looks = [(0, 5_000), (6_000, 6_050), (7_000, 7_500)];
        let mut looks = looks.into_iter().map(|(since, time)| answer(since, time, Vec::new()));
        let rated = look(Duration::from_millis(2), || looks.next().ok_or(())).unwrap();
        assert_eq!(rated.seconds, Some(0.5));
        let mut endless = (1..).map(|at| answer(at * 1000, at * 1000 + 1, Vec::new()));
        let rated = look(Duration::ZERO, || Ok::<_, Infallible>(endless.next().unwrap_or_default())).unwrap();
        assert_eq!(rated.seconds, None);
    }
}
