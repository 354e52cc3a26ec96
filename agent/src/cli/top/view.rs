//! What is on the screen.
//! Pure: a state in, cells out. Must not know of keys, terminals or sockets.
//! Always: it fits any size: columns that are worth least go first.
#![forbid(unsafe_code)]

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as TableRow, Table};

use super::head;
use super::names::{Ends, Names};
use super::rates::{Rate, Rated};
use crate::capture::flow::Verdict;
use crate::cli::text::{age, clock, size};
use crate::flows::{Answer, Filter, Query, Row, Sort, action, protocol};

/// What [`draw`] shows, and keys change.
#[derive(Default)]
pub(super) struct View {
    pub(super) query: Query,
    pub(super) hostname: String,
    pub(super) names: Names,
    /// None: no answer to this query yet.
    pub(super) rated: Option<Rated>,
    /// The answer before it, which rates are taken from.
    pub(super) before: Option<Answer>,
    /// What that is an answer to.
    pub(super) shown: Option<Filter>,
    /// Why there is none of this moment.
    pub(super) error: Option<String>,
    pub(super) is_paused: bool,
    pub(super) is_helping: bool,
    pub(super) ends: Ends,
    /// Rows that are scrolled over.
    pub(super) offset: usize,
    /// Rows at most, if somebody said so.
    pub(super) rows: Option<usize>,
    /// Rows that there was room for when it was drawn.
    pub(super) page: usize,
    /// The filter that is being typed.
    pub(super) input: Option<Input>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) text: String,
    /// Why it is no filter.
    pub(super) error: Option<String>,
}

const KEYS: [(&str, &str); 10] = [
    ("b p r", "sort by bytes, packets, rejects"),
    ("i", "next interface, and then all"),
    ("/", "filter: 10.0.0.0/8 port 443 proto tcp action reject dir in if eth0"),
    ("a", "addresses, names of /etc/hosts and /etc/services, no addresses"),
    ("space", "pause"),
    ("up down", "scroll by a row"),
    ("PgUp PgDn", "scroll by a page"),
    ("Home End", "first, last"),
    ("?", "this help"),
    ("q", "quit"),
];

pub(super) fn draw(view: &mut View, frame: &mut Frame) {
    let [top, table, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(header(view), top);
    flows(view, frame, table);
    frame.render_widget(footer(view), foot);
    if view.is_helping {
        help(frame);
    }
}

fn label(text: &'static str) -> Span<'static> {
    Span::from(text).dark_gray()
}

fn header(view: &View) -> Text<'static> {
    let mut first = vec![" flowlogd top ".bold().black().on_cyan(), Span::from(format!("  {}", view.hostname)).bold()];
    let Some(rated) = &view.rated else {
        let waiting = view.error.clone().map_or("waiting for the agent".into(), |why| why.red());
        return Text::from(vec![Line::from(first), Line::from(vec![" ".into(), waiting])]);
    };
    let answer = &rated.answer;
    let verdicts = Span::from(head::verdicts(answer));
    let verdicts = if answer.about.verdicts.available { verdicts.green() } else { verdicts.yellow() };
    first.extend([label("  up "), age(answer.about.uptime_seconds).into(), label("  verdicts "), verdicts]);
    if view.is_paused {
        first.extend(["  ".into(), " paused ".bold().black().on_yellow()]);
    }
    let sum = answer.matched;
    let rate = |rate: Option<Rate>, of: fn(&Rate) -> String| rate.as_ref().map_or("-".to_owned(), of);
    let second = vec![
        label(" window "),
        format!("{} to {}", clock(answer.about.window.start), clock(answer.about.window.end)).into(),
        label("  flows "),
        sum.flows.to_string().into(),
        label("  rate "),
        Span::from(rate(rated.sum, |rate| format!("{}/s", size(rate.bytes as u64)))).bold(),
        format!("  {} packets/s", rate(rated.sum, |rate| format!("{:.0}", rate.packets))).into(),
        label("  refused "),
        refused(rate(rated.rejected, |rate| format!("{:.0} packets/s", rate.packets)), rated.rejected),
    ];
    let third = match &view.error {
        Some(why) => Line::from(vec![" ".into(), Span::from(format!("not of this moment: {why}")).red()]),
        None => asked(view),
    };
    Text::from(vec![Line::from(first), Line::from(second), third])
}

fn refused(text: String, rate: Option<Rate>) -> Span<'static> {
    if rate.is_some_and(|rate| rate.packets > 0.0) { text.red() } else { text.into() }
}

fn asked(view: &View) -> Line<'static> {
    let filter = view.query.filter.to_string();
    let filter = if filter.is_empty() { "none".into() } else { filter.yellow() };
    let sort = view.query.sort.name();
    Line::from(vec![
        label(" sorted by "),
        sort.into(),
        label("  filter "),
        filter,
        label("  ends "),
        view.ends.name().into(),
    ])
}

/// A column, the sort that it is of, and how early it is left out where there is no room.
struct Column {
    head: &'static str,
    alignment: Alignment,
    sort: Option<Sort>,
    spare: u8,
}

const fn column(head: &'static str, alignment: Alignment, sort: Option<Sort>, spare: u8) -> Column {
    Column { head, alignment, sort, spare }
}

const COLUMNS: [Column; 10] = [
    column("INTERFACE", Alignment::Left, None, 3),
    column("DIR", Alignment::Left, None, 2),
    column("ACTION", Alignment::Left, Some(Sort::Rejects), 0),
    column("PROTO", Alignment::Left, None, 1),
    column("SOURCE", Alignment::Left, None, 0),
    column("DESTINATION", Alignment::Left, None, 0),
    column("PACKETS", Alignment::Right, Some(Sort::Packets), 4),
    column("BYTES", Alignment::Right, Some(Sort::Bytes), 0),
    column("PACKETS/S", Alignment::Right, None, 5),
    column("BYTES/S", Alignment::Right, None, 0),
];
const SPACING: u16 = 2;

fn cells(row: &Row, rate: Option<Rate>, names: &Names, ends: Ends) -> [String; 10] {
    let (source, destination) = names.ends(row, ends);
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        row.interface.clone(),
        head::way(row.direction).to_owned(),
        action(row.action).to_owned(),
        protocol(row.protocol).into_owned(),
        source,
        destination,
        row.packets.to_string(),
        size(row.bytes),
        shown(rate.map(|rate| format!("{:.0}", rate.packets))),
        shown(rate.map(|rate| size(rate.bytes as u64))),
    ]
}

fn flows(view: &mut View, frame: &mut Frame, area: Rect) {
    let Some(rated) = &view.rated else { return };
    let room = usize::from(area.height.saturating_sub(1));
    view.page = view.rows.map_or(room, |rows| room.min(rows));
    view.offset = view.offset.min(rated.flows.len().saturating_sub(view.page));
    let all = rated.answer.flows.iter().zip(&rated.flows);
    let shown: Vec<_> = all.skip(view.offset).take(view.page).collect();
    let texts: Vec<_> = shown.iter().map(|(row, rate)| cells(row, **rate, &view.names, view.ends)).collect();
    let width = |at: usize| {
        let widest = texts.iter().map(|cells| cells[at].chars().count()).max().unwrap_or_default();
        widest.max(COLUMNS[at].head.len()) as u16
    };
    let widths: Vec<u16> = (0..COLUMNS.len()).map(width).collect();
    let kept = fit(&widths, area.width);
    let cell = |at: usize, text: String| Cell::from(Text::from(text).alignment(COLUMNS[at].alignment));
    let head = kept.iter().map(|&at| {
        let is_sort = COLUMNS[at].sort == Some(view.query.sort);
        let style = if is_sort { Style::new().black().on_cyan() } else { Style::new().cyan() };
        cell(at, COLUMNS[at].head.to_owned()).style(style.add_modifier(Modifier::BOLD))
    });
    let rows = shown.iter().zip(texts).map(|((row, rate), texts)| {
        let cells = kept.iter().map(|&at| cell(at, texts[at].clone()));
        TableRow::new(cells).style(style(row, **rate))
    });
    let constraints = kept.iter().map(|&at| Constraint::Length(widths[at]));
    let table = Table::new(rows, constraints).header(TableRow::new(head)).column_spacing(SPACING);
    // As far from the edge as what is above.
    let [_, area] = Layout::horizontal([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(table, area);
}

/// Refused is red; what does not move stands back.
fn style(row: &Row, rate: Option<Rate>) -> Style {
    match (row.action, rate) {
        (Verdict::Reject, _) => Style::new().fg(Color::Red),
        (Verdict::Accept, Some(rate)) if rate.packets == 0.0 => Style::new().fg(Color::DarkGray),
        (Verdict::Accept, _) => Style::new(),
    }
}

/// Columns for which there is room.
fn fit(widths: &[u16], room: u16) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..widths.len()).collect();
    let needed = |kept: &[usize]| kept.iter().map(|&at| widths[at] + SPACING).sum::<u16>();
    // One column from the edge, and none behind the last.
    while needed(&kept) + 1 > room + SPACING {
        let Some(least) = kept.iter().copied().max_by_key(|&at| COLUMNS[at].spare).filter(|&at| COLUMNS[at].spare > 0)
        else {
            break;
        };
        kept.retain(|&at| at != least);
    }
    kept
}

fn footer(view: &View) -> Line<'static> {
    if let Some(Input { text, error }) = &view.input {
        let mut line = vec![" filter: ".bold(), text.clone().into(), "_".slow_blink()];
        line.extend(error.iter().flat_map(|why| ["  ".into(), why.clone().red()]));
        return Line::from(line);
    }
    let mut line = Vec::new();
    let keys = [
        ("b/p/r", "sort"),
        ("i", "interface"),
        ("/", "filter"),
        ("a", "names"),
        ("space", "pause"),
        ("?", "help"),
        ("q", "quit"),
    ];
    for (key, what) in keys {
        line.extend([Span::from(format!(" {key} ")).cyan().bold(), label(what), " ".into()]);
    }
    Line::from(line)
}

fn help(frame: &mut Frame) {
    let lines: Vec<Line> =
        KEYS.iter().map(|(key, what)| Line::from(vec![format!(" {key:<10} ").cyan().bold(), (*what).into()])).collect();
    let width = lines.iter().map(Line::width).max().unwrap_or_default() as u16 + 3;
    let area = frame.area();
    let (width, height) = (width.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let at = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, at);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), at);
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::{answer, row};
    use super::*;
    use crate::flows::parse_filter;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn view() -> View {
        let flows = |counts: [u64; 3]| {
            let [one, two, three] = counts;
            vec![row(1, Verdict::Accept, one), row(2, Verdict::Reject, two), row(3, Verdict::Accept, three)]
        };
        let mut now = answer(0, 7_000, flows([300, 50, 7]));
        (now.about.uptime_seconds, now.about.verdicts.available) = (90, true);
        let rated = Rated::new(Some(&answer(0, 5_000, flows([100, 40, 7]))), now);
        View { rated: Some(rated), hostname: "edge-1".to_owned(), ..View::default() }
    }

    fn terminal(view: &mut View, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(view, frame)).unwrap();
        terminal
    }

    fn lines(view: &mut View, width: u16, height: u16) -> Vec<String> {
        let terminal = terminal(view, width, height);
        let cells = terminal.backend().buffer().content().chunks(width.into());
        let text = |line: &[ratatui::buffer::Cell]| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
        cells.map(|line| text(line).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_whole_screen() {
        let want = [
            " flowlogd top   edge-1  up 90 s  verdicts the kernel's",
            " window 00:00:00 to 00:00:59  flows 3  rate 10 KiB/s  105 packets/s  refused 5 packets/s",
            " sorted by bytes  filter none  ends addresses",
            "",
            " INTERFACE  DIR  ACTION  PROTO  SOURCE      DESTINATION   PACKETS   BYTES  PACKETS/S  BYTES/S",
        ];
        let got = lines(&mut view(), 110, 10);
        assert_eq!(got[..5], want, "{got:#?}");
        assert_eq!(got.last().unwrap(), " b/p/r sort  i interface  / filter  a names  space pause  ? help  q quit");
    }

    #[test]
    fn refused_is_red_and_what_stands_still_is_grey() {
        let mut view = view();
        let terminal = terminal(&mut view, 110, 10);
        let colour = |line| terminal.backend().buffer()[(20, line)].style().fg;
        assert_eq!([5, 6, 7].map(colour), [Some(Color::Reset), Some(Color::Red), Some(Color::DarkGray)]);
    }

    #[test]
    fn every_size_is_drawn() {
        for (width, height) in [(80, 24), (60, 8), (30, 6), (10, 3), (1, 1)] {
            let mut view = View { is_helping: true, ..view() };
            lines(&mut view, width, height);
        }
        let got = lines(&mut view(), 80, 9);
        let head = &got[4];
        assert!(head.contains("BYTES/S") && !head.contains("PACKETS/S") && head.len() <= 80, "{head}");
    }

    #[test]
    fn errors_pauses_filters_and_input_are_shown() {
        let mut it = View { error: Some("no agent answers".to_owned()), is_paused: true, ..view() };
        let got = lines(&mut it, 110, 9);
        assert!(got[0].ends_with("  paused") && got[2] == " not of this moment: no agent answers", "{got:#?}");
        let mut it = view();
        it.query.filter = parse_filter("port 443 reject").unwrap();
        it.input = Some(Input { text: "port x".to_owned(), error: Some("no".to_owned()) });
        let got = lines(&mut it, 110, 9);
        assert!(got[2].contains("filter port 443 action reject"), "{got:#?}");
        assert_eq!(got[8], " filter: port x_  no");
        let mut it = View { error: Some("gone".to_owned()), ..View::default() };
        assert_eq!(lines(&mut it, 40, 5)[1], " gone");
    }

    #[test]
    fn scrolling_ends_with_the_last_row() {
        let mut it = View { offset: usize::MAX, rows: Some(1), ..view() };
        let got = lines(&mut it, 110, 20);
        assert_eq!((it.offset, it.page), (2, 1));
        assert!(got[5].contains("10.0.0.1:3") && got[6].is_empty(), "{got:#?}");
    }
}
