//! A terminal's text with its colours (SGR sequences) as SVG.
//! Pure. Always: each run of text is as wide as its columns, whatever font a reader has.
use std::fmt::Write as _;

const CELL: (f64, f64) = (8.4, 18.0);
const MARGIN: f64 = 18.0;
const BAR: f64 = 34.0;
const FOREGROUND: &str = "#d8dee9";
const BACKGROUND: &str = "#1d2129";
/// Black to white, and their bright forms.
const COLOURS: [&str; 16] = [
    "#1d2129", "#ef6b73", "#8fc97d", "#e8c26a", "#6ca6e8", "#c78bdc", "#5cc5cf", "#d8dee9", "#7b8698", "#ff8088",
    "#a6e08f", "#ffd97f", "#85bcff", "#dda3f2", "#76dfe8", "#ffffff",
];

#[derive(Clone, Copy, Default, PartialEq)]
struct Style {
    bold: bool,
    swapped: bool,
    front: Option<usize>,
    back: Option<usize>,
}

impl Style {
    fn apply(&mut self, sequence: &str) {
        let mut numbers = sequence.split([';', ':']).map(|number| number.parse().unwrap_or(0_usize));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                22 => self.bold = false,
                7 => self.swapped = true,
                27 => self.swapped = false,
                30..=37 => self.front = Some(number - 30),
                39 => self.front = None,
                40..=47 => self.back = Some(number - 40),
                49 => self.back = None,
                90..=97 => self.front = Some(number - 82),
                100..=107 => self.back = Some(number - 92),
                38 | 48 => {
                    let colour = numbers.nth(1).filter(|colour| *colour < COLOURS.len());
                    *(if number == 38 { &mut self.front } else { &mut self.back }) = colour;
                }
                _ => {}
            }
        }
    }

    fn colours(self) -> (&'static str, Option<&'static str>) {
        let front = self.front.map_or(FOREGROUND, |at| COLOURS[at]);
        let back = self.back.map(|at| COLOURS[at]);
        if self.swapped { (back.unwrap_or(BACKGROUND), Some(front)) } else { (front, back) }
    }
}

type Run = (usize, String, Style);

/// Column, text and style of each run.
fn runs(line: &str, style: &mut Style) -> Vec<Run> {
    let (mut runs, mut column) = (Vec::<Run>::new(), 0);
    for (at, part) in line.split("\x1b[").enumerate() {
        let text = if at == 0 {
            part
        } else {
            part.split_once('m').map_or("", |(codes, text)| {
                style.apply(codes);
                text
            })
        };
        if !text.is_empty() {
            runs.push((column, text.to_owned(), *style));
            column += text.chars().count();
        }
    }
    runs
}

pub(super) fn render(title: &str, screen: &str) -> String {
    let mut style = Style::default();
    let lines: Vec<Vec<Run>> = screen.trim_end().lines().map(|line| runs(line, &mut style)).collect();
    let end = |line: &Vec<Run>| {
        let seen = line.iter().filter(|(_, text, style)| style.back.is_some() || !text.trim_end().is_empty());
        seen.map(|(column, text, _)| column + text.trim_end().chars().count()).max()
    };
    let columns = lines.iter().filter_map(end).max().unwrap_or_default();
    let (width, height) = (2.0 * MARGIN + columns as f64 * CELL.0, BAR + MARGIN + lines.len() as f64 * CELL.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"14\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"9\" fill=\"{BACKGROUND}\"/>\n"
    );
    for (at, colour) in [1, 3, 2].into_iter().enumerate() {
        let x = MARGIN + 4.0 + 18.0 * at as f64;
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"17\" r=\"5.5\" fill=\"{}\"/>", COLOURS[colour]);
    }
    for (row, line) in lines.iter().enumerate() {
        for (column, text, style) in line {
            draw(&mut svg, row, *column, text, *style);
        }
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, row: usize, column: usize, text: &str, style: Style) {
    let (front, back) = style.colours();
    let place = |column: usize| MARGIN + column as f64 * CELL.0;
    let y = BAR + row as f64 * CELL.1;
    if let Some(back) = back {
        let (x, width) = (place(column), text.chars().count() as f64 * CELL.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{back}\"/>",
            CELL.1
        );
    }
    // Words where they belong: columns stay aligned in every font.
    for (at, word) in words(text) {
        let (x, width) = (place(column + at), word.chars().count() as f64 * CELL.0);
        let escaped = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let weight = if style.bold { " font-weight=\"bold\"" } else { "" };
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{front}\"{weight} textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\">{escaped}</text>",
            y + 13.5
        );
    }
}

/// With their columns.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::<(usize, String)>::new();
    let mut is_open = false;
    for (at, character) in text.chars().enumerate() {
        match words.last_mut().filter(|_| is_open) {
            _ if character == ' ' => is_open = false,
            Some((_, word)) => word.push(character),
            None => {
                words.push((at, character.to_string()));
                is_open = true;
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_at_their_columns_in_their_colours() {
        let svg = render("t", "ab  \x1b[1;31mc<d\x1b[0m e\n\x1b[7mf\x1b[0m\n\n");
        for part in [
            "x=\"18.0\" y=\"47.5\" fill=\"#d8dee9\" textLength=\"16.8\" lengthAdjust=\"spacingAndGlyphs\">ab<",
            "x=\"51.6\" y=\"47.5\" fill=\"#ef6b73\" font-weight=\"bold\" textLength=\"25.2\" lengthAdjust=\"spacingAndGlyphs\">c&lt;d<",
            "x=\"85.2\" y=\"47.5\" fill=\"#d8dee9\" textLength=\"8.4\" lengthAdjust=\"spacingAndGlyphs\">e<",
            "<rect x=\"18.0\" y=\"52.0\" width=\"8.4\" height=\"18.0\" fill=\"#d8dee9\"/>",
        ] {
            assert!(svg.contains(part), "{part} not in {svg}");
        }
        assert!(svg.contains("width=\"112\" height=\"88\""), "{svg}");
    }
}
