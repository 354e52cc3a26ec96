//! `log-format` as AWS takes it: `${field}` tokens with single spaces between, each field once. What is refused is
//! refused where it stands, with the name that was meant.
//! Must not know what a field holds.
#![forbid(unsafe_code)]

use super::table::{FIELDS, Field, TRANSIT_GATEWAY};

/// In the words of AWS's own refusal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("has an invalid format at character {position}: {why}")]
pub(crate) struct FormatError {
    /// In characters, from 1; one behind the last if something is missing there.
    pub(crate) position: usize,
    why: String,
}

pub(super) fn parse(text: &str) -> Result<Vec<&'static Field>, FormatError> {
    let mut fields: Vec<&'static Field> = Vec::new();
    let mut at = 0;
    for token in text.split(' ') {
        let refuse =
            |offset: usize, why: String| Err(FormatError { position: text[..at + offset].chars().count() + 1, why });
        let name = match name_of(token) {
            Ok(name) => name,
            Err((_, why)) if text.is_empty() => return refuse(0, format!("it is empty; {why}")),
            Err((offset, why)) => return refuse(offset, why),
        };
        let Some(field) = FIELDS.iter().find(|field| field.name == name) else { return refuse(0, unknown(name)) };
        if fields.contains(&field) {
            return refuse(0, format!("${{{name}}} is there twice"));
        }
        fields.push(field);
        at += token.len() + 1;
    }
    Ok(fields)
}

/// Of one token; else where in it the fault is, in bytes.
fn name_of(token: &str) -> Result<&str, (usize, String)> {
    if token.is_empty() {
        return Err((0, "a ${field} is missing; between two fields is one space, and none at the ends".to_owned()));
    }
    let Some(rest) = token.strip_prefix("${") else {
        let bare: &str = token.trim_matches(|c| matches!(c, '$' | '{' | '}'));
        let meant = FIELDS.iter().find(|field| field.name == bare);
        let hint =
            meant.map_or_else(|| "only ${field} may stand here".to_owned(), |it| format!("write ${{{}}}", it.name));
        return Err((0, format!("{token:?} is no field; {hint}")));
    };
    let Some((name, behind)) = rest.split_once('}') else {
        return Err((token.len(), format!("}} is missing behind {token:?}")));
    };
    if !behind.is_empty() {
        return Err((token.len() - behind.len(), format!("a space is missing behind ${{{}}}", name.escape_debug())));
    }
    Ok(name)
}

fn unknown(name: &str) -> String {
    let shown = name.escape_debug();
    if TRANSIT_GATEWAY.contains(&name) {
        return format!("${{{shown}}} is a field of transit gateway flow logs, and a host is no transit gateway");
    }
    let wanted = name.to_ascii_lowercase().replace('_', "-");
    let nearest = FIELDS.iter().min_by_key(|field| strsim::osa_distance(&wanted, field.name));
    let meant = nearest.map_or_else(String::new, |field| format!("; did you mean ${{{}}}?", field.name));
    format!("${{{shown}}} is not a field{meant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_where_and_what_was_meant() {
        for (text, position, why) in [
            ("", 1, "it is empty; a ${field} is missing; between two fields is one space, and none at the ends"),
            (" ", 1, "a ${field} is missing; between two fields is one space, and none at the ends"),
            (" ${end}", 1, "a ${field} is missing; between two fields is one space, and none at the ends"),
            ("${end} ", 8, "a ${field} is missing; between two fields is one space, and none at the ends"),
            ("${end}  ${start}", 8, "a ${field} is missing; between two fields is one space, and none at the ends"),
            ("${end} start", 8, "\"start\" is no field; write ${start}"),
            ("{end}", 1, "\"{end}\" is no field; write ${end}"),
            ("é ${end}", 1, "\"é\" is no field; only ${field} may stand here"),
            ("${start} ${end", 15, "} is missing behind \"${end\""),
            ("${end}${start}", 7, "a space is missing behind ${end}"),
            ("${end},${start}", 7, "a space is missing behind ${end}"),
            ("${end}\t${start}", 7, "a space is missing behind ${end}"),
            ("${end} ${start} ${end}", 17, "${end} is there twice"),
            ("${end} ${pakets}", 8, "${pakets} is not a field; did you mean ${packets}?"),
            // A refusal is one line, whatever it names.
            ("${bytes\n\r}", 1, "${bytes\\n\\r} is not a field; did you mean ${bytes}?"),
            ("${PKT_SRCADDR}", 1, "${PKT_SRCADDR} is not a field; did you mean ${pkt-srcaddr}?"),
            (
                "${end} ${tgw-id}",
                8,
                "${tgw-id} is a field of transit gateway flow logs, and a host is no transit gateway",
            ),
        ] {
            assert_eq!(parse(text), Err(FormatError { position, why: why.to_owned() }), "{text:?}");
        }
        for name in TRANSIT_GATEWAY {
            assert!(parse(&format!("${{{name}}}")).unwrap_err().why.contains("transit gateway"), "{name}");
        }
        let error = parse("${version} ${acount-id}").unwrap_err().to_string();
        let want = "has an invalid format at character 12: ${acount-id} is not a field; did you mean ${account-id}?";
        assert_eq!(error, want);
    }
}
