//! What a key does.
//! Pure: changes the view, and says what else is to be done. Must not know of terminals.
//! Always: a filter that is no filter changes nothing but the line below.
#![forbid(unsafe_code)]

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::names::Ends;
use super::view::{Input, View};
use crate::flows::{Sort, parse_filter};

/// Nobody types a longer filter.
const INPUT_CHARACTERS_MAX: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Draw,
    /// Another question, or none while it is paused.
    Ask,
    Quit,
}

pub(super) fn press(view: &mut View, key: KeyEvent) -> Then {
    // In raw mode the terminal makes no signal of it.
    if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'd')) {
        return Then::Quit;
    }
    if view.input.is_some() {
        return type_filter(view, key.code);
    }
    if view.is_helping {
        view.is_helping = false;
        return Then::Draw;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
        KeyCode::Char('b') => return sort(view, Sort::Bytes),
        KeyCode::Char('p') => return sort(view, Sort::Packets),
        KeyCode::Char('r') => return sort(view, Sort::Rejects),
        KeyCode::Char('i') => return next_interface(view),
        KeyCode::Char('/') => view.input = Some(Input { text: view.query.filter.to_string(), error: None }),
        KeyCode::Char('a') => view.ends = Ends::next(view.ends),
        KeyCode::Char(' ') => {
            view.is_paused = !view.is_paused;
            return Then::Ask;
        }
        KeyCode::Char('?' | 'h') => view.is_helping = true,
        KeyCode::Up => view.offset = view.offset.saturating_sub(1),
        KeyCode::Down => view.offset = view.offset.saturating_add(1),
        KeyCode::PageUp => view.offset = view.offset.saturating_sub(view.page),
        KeyCode::PageDown => view.offset = view.offset.saturating_add(view.page),
        KeyCode::Home => view.offset = 0,
        // As far as there are rows: drawing knows.
        KeyCode::End => view.offset = usize::MAX,
        _ => {}
    }
    Then::Draw
}

fn sort(view: &mut View, by: Sort) -> Then {
    (view.query.sort, view.offset) = (by, 0);
    Then::Ask
}

/// All, each, and all again.
fn next_interface(view: &mut View) -> Then {
    let Some(rated) = &view.rated else { return Then::Draw };
    let names = &rated.answer.about.interfaces;
    let next = match &view.query.filter.interface {
        None => names.first(),
        Some(now) => names.iter().position(|name| name == now).and_then(|at| names.get(at + 1)),
    };
    view.query.filter.interface = next.cloned();
    view.offset = 0;
    Then::Ask
}

fn type_filter(view: &mut View, code: KeyCode) -> Then {
    let Some(input) = &mut view.input else { return Then::Draw };
    match code {
        KeyCode::Esc => view.input = None,
        KeyCode::Enter => match parse_filter(&input.text) {
            Ok(filter) => {
                (view.query.filter, view.offset, view.input) = (filter, 0, None);
                return Then::Ask;
            }
            Err(why) => input.error = Some(why),
        },
        KeyCode::Backspace => {
            input.text.pop();
            input.error = None;
        }
        KeyCode::Char(character) if input.text.chars().count() < INPUT_CHARACTERS_MAX => {
            input.text.push(character);
            input.error = None;
        }
        _ => {}
    }
    Then::Draw
}

#[cfg(test)]
mod tests {
    use super::super::rates::Rated;
    use super::super::rates::tests::answer;
    use super::*;
    use crate::flows::{About, Answer};

    fn typed(view: &mut View, keys: &str) -> Then {
        let mut then = Then::Draw;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                key => KeyCode::Char(key),
            };
            then = press(view, KeyEvent::from(code));
        }
        then
    }

    #[test]
    fn sorts_pauses_and_ends() {
        let mut view = View { offset: 7, ..View::default() };
        assert_eq!((typed(&mut view, "r"), view.query.sort, view.offset), (Then::Ask, Sort::Rejects, 0));
        assert_eq!((typed(&mut view, "p"), view.query.sort), (Then::Ask, Sort::Packets));
        assert_eq!((typed(&mut view, "b"), view.query.sort), (Then::Ask, Sort::Bytes));
        assert_eq!((typed(&mut view, " "), view.is_paused), (Then::Ask, true));
        assert_eq!((typed(&mut view, "aa"), view.ends), (Then::Draw, Ends::Hidden));
        assert_eq!((typed(&mut view, "?"), view.is_helping), (Then::Draw, true));
        assert_eq!((typed(&mut view, "q"), view.is_helping), (Then::Draw, false));
        assert_eq!(typed(&mut view, "q"), Then::Quit);
        assert_eq!(press(&mut view, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
    }

    #[test]
    fn goes_through_the_interfaces() {
        let interfaces = vec!["eth0".to_owned(), "eth1".to_owned()];
        let rated =
            Rated::new(None, Answer { about: About { interfaces, ..About::default() }, ..answer(0, 0, Vec::new()) });
        let mut view = View { rated: Some(rated), ..View::default() };
        for want in [Some("eth0"), Some("eth1"), None, Some("eth0")] {
            assert_eq!(typed(&mut view, "i"), Then::Ask);
            assert_eq!(view.query.filter.interface.as_deref(), want);
        }
    }

    #[test]
    fn a_filter_is_typed() {
        let mut view = View::default();
        assert_eq!(typed(&mut view, "/port 4x"), Then::Draw);
        assert_eq!(typed(&mut view, "\n"), Then::Draw);
        let input = view.input.clone().unwrap();
        assert!(input.text == "port 4x" && input.error.unwrap().starts_with("\"4x\" is not a port"));
        assert_eq!(typed(&mut view, "\x0843\n"), Then::Ask);
        assert_eq!((view.query.filter.port, &view.input), (Some(443), &None));
        // What is there can be changed, or left.
        typed(&mut view, "/q\x1b");
        assert_eq!((view.query.filter.port, &view.input), (Some(443), &None));
    }

    #[test]
    fn scrolls() {
        let mut view = View { page: 10, ..View::default() };
        for (code, want) in [
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 11),
            (KeyCode::Up, 10),
            (KeyCode::PageUp, 0),
            (KeyCode::PageUp, 0),
            (KeyCode::End, usize::MAX),
            (KeyCode::Home, 0),
        ] {
            press(&mut view, KeyEvent::from(code));
            assert_eq!(view.offset, want, "{code}");
        }
    }
}
