//! What an earlier run left.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::reader::Ends;
use super::{EXTENSION, LAST, Last, Segment, SegmentId, SpoolError, State, TEMPORARY};
use crate::disk;
use crate::register::Register;

/// Removes half-written segments and those that are delivered. Files of other names belong to others.
pub(super) fn read(directory: &Path) -> Result<State, SpoolError> {
    let mut state = begin(directory)?;
    for entry in fs::read_dir(directory).map_err(SpoolError::at("read directory", directory))? {
        let path = entry.map_err(SpoolError::at("read directory", directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let temporary = name.strip_suffix(TEMPORARY).and_then(SegmentId::parse);
        let id = SegmentId::parse(name);
        // Also of what is left alone: its name is taken.
        state.newest = state.newest.max(temporary.or(id).map_or(0, |id| id.0));
        match id {
            Some(id) if id.0 <= state.last.removed => remove(&path)?,
            Some(id) => drop(segment(&path, id)?.map(|segment| state.segments.insert(id, segment))),
            None if temporary.is_some() => remove(&path)?,
            None if name.ends_with(EXTENSION) => left_alone(&path, "does not have the name of a segment"),
            None => {}
        }
    }
    if let Some(newest) = state.segments.values().next_back() {
        let Segment { id, window, .. } = *newest;
        state.last.finish(id, window);
    }
    // Makes room for what is to be said when there is none.
    if let Err(error) = state.write_last(state.last) {
        tracing::warn!("{error}");
    }
    Ok(state)
}

fn remove(path: &Path) -> Result<(), SpoolError> {
    disk::remove(path).map_err(SpoolError::at("remove segment", path))
}

fn left_alone(path: &Path, why: &str) {
    tracing::warn!("{} {why}: it is left alone", path.display());
}

/// None when it is left alone.
fn segment(path: &Path, id: SegmentId) -> Result<Option<Segment>, SpoolError> {
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        left_alone(path, "is not a file");
        return Ok(None);
    }
    let file = super::open_file(path)?;
    match Ends::read(&file) {
        Ok(ends) => {
            if !ends.is_whole() {
                tracing::warn!("segment {} is damaged at its end", path.display());
            }
            let (window, records, text_bytes) = (ends.summary.window, ends.summary.records, ends.summary.text_bytes);
            Ok(Some(Segment { id, window, bytes: ends.bytes, text_bytes, records }))
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            left_alone(path, "is not a segment of this version, or damaged at both ends");
            Ok(None)
        }
        Err(error) => Err(SpoolError::at("read segment", path)(error)),
    }
}

/// What is known without the segments.
fn begin(directory: &Path) -> Result<State, SpoolError> {
    let (register, line) = Register::open(directory.join(LAST));
    let last = match line {
        Ok(None) => Some(Last::default()),
        Ok(Some(line)) => Last::parse(&line),
        Err(error) if error.kind() == ErrorKind::InvalidData => None,
        Err(error) => return Err(SpoolError::at("read", register.path())(error)),
    };
    let last = last.unwrap_or_else(|| {
        let path = register.path().display();
        tracing::warn!("{path} is damaged: windows that are delivered may be delivered again");
        Last::default()
    });
    let newest = last.id.max(last.removed);
    let (segments, held, corrupt, dropped, said) = Default::default();
    Ok(State { segments, newest, last, register, held, corrupt, dropped, said })
}
