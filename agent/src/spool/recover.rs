//! What an earlier run left.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::reader::Ends;
use super::{EXTENSION, LAST, Last, Segment, SegmentId, SpoolError, State, TEMPORARY};
use crate::disk;

/// Removes half-written segments and those that are delivered. Files of other names belong to others.
pub(super) fn read(directory: &Path) -> Result<State, SpoolError> {
    let mut state = State { last: read_last(directory)?, ..State::default() };
    state.newest = state.last.id.max(state.last.removed);
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

fn read_last(directory: &Path) -> Result<Last, SpoolError> {
    let path = directory.join(LAST);
    let line = match disk::read_line(&path) {
        Ok(None) => return Ok(Last::default()),
        Ok(line) => line,
        Err(error) if error.kind() == ErrorKind::InvalidData => None,
        Err(error) => return Err(SpoolError::at("read", &path)(error)),
    };
    Ok(line.and_then(|line| Last::parse(&line)).unwrap_or_else(|| {
        tracing::warn!("{} is damaged: windows that are delivered may be delivered again", path.display());
        Last::default()
    }))
}
