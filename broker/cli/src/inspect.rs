//! `sluice inspect`: what is readable in a data directory, where its log ends and why, without a broker and without a change.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use sluice_log::{Ending, FileStorage, PartReport, Report, SegmentReport, SidecarState, inspect};
use sluice_server::log_directory;

use crate::failure::Failure;
use crate::output::Output;
use crate::times;

/// Look at a data directory. It is only read; a broker may be running on it. Exits with 1 when a broker would refuse to start on it.
#[derive(Args)]
pub(crate) struct Inspect {
    /// The data directory, as given to `sluice serve --data`
    #[arg(value_name = "DIR")]
    data: PathBuf,
}

impl Inspect {
    /// Looks and prints.
    pub(crate) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let directory = log_directory(&self.data);
        let storage = FileStorage::existing(&directory).map_err(|error| {
            Failure::failed(format!(
                "there is no data directory of a broker at {}: {error}",
                self.data.display()
            ))
        })?;
        let report = inspect(&storage).map_err(|error| Failure::failed(error.to_string()))?;
        output.show(|| to_json(&report), || to_lines(&report))?;
        if report.can_start() {
            return Ok(());
        }
        output.flush()?;
        Err(Failure::Failed {
            text: "a broker refuses to start on this directory: confirmed bytes cannot be read".to_owned(),
            advice: Some("restore the named file from a copy; nothing was changed or dropped".to_owned()),
            code: None,
        })
    }
}

fn to_json(report: &Report) -> Value {
    let segments: Vec<Value> = report.segments.iter().map(segment_json).collect();
    let queues: Vec<Value> = report
        .queues
        .iter()
        .map(|(queue, stored)| {
            json!({
                "topic_id": queue.topic.0, "queue": queue.index.0, "first": stored.first.0, "end": stored.end.0, "bytes": stored.bytes,
            })
        })
        .collect();
    let damage: Vec<Value> = report
        .damage
        .iter()
        .map(|damage| {
            json!({
                "file": damage.file, "position": damage.position.0, "bytes": damage.bytes, "reason": damage.reason,
                "stops_start": damage.stops_start,
            })
        })
        .collect();
    let checkpoint = report.checkpoint.as_ref().map(|checkpoint| {
        json!({
            "file": checkpoint.file, "replay_from": checkpoint.replay_from.0, "covers": checkpoint.covers.0,
            "entries": checkpoint.entries, "entry_bytes": checkpoint.entry_bytes,
        })
    });
    json!({
        "format_version": report.format_version, "segments": segments, "spares": report.spares, "end": report.end.0,
        "ending": ending(report), "checkpoint": checkpoint, "broken_checkpoints": report.broken_checkpoints, "queues": queues,
        "parts": report.parts.iter().map(part_json).collect::<Vec<_>>(), "damage": damage, "can_start": report.can_start(),
    })
}

fn segment_json(segment: &SegmentReport) -> Value {
    json!({
        "file": segment.file, "file_bytes": segment.file_bytes, "base": segment.base.0, "end": segment.end.0, "frames": segment.frames,
        "records": segment.records, "epochs": segment.epochs.map(|(first, last)| [first.0, last.0]), "sidecar": sidecar(segment.sidecar),
    })
}

fn part_json(part: &PartReport) -> Value {
    let damage = part
        .damage
        .iter()
        .map(|damage| json!({ "offset": damage.offset, "messages": damage.messages, "reason": damage.reason }));
    json!({
        "file": part.file, "part": part.part.0, "file_bytes": part.facts.map(|facts| facts.bytes),
        "messages": part.facts.map(|facts| facts.messages), "first_due_ms": part.facts.map(|facts| facts.first.at_ms),
        "last_due_ms": part.facts.map(|facts| facts.last.at_ms), "damage": damage.collect::<Vec<_>>(),
    })
}

fn part_lines(part: &PartReport) -> Vec<String> {
    let mut lines = vec![match part.facts {
        Some(facts) => format!(
            "part {}: number {}, {} far-off messages, due from {} to {}, {} bytes",
            part.file,
            part.part.0,
            facts.messages,
            times::shown(facts.first.at_ms),
            times::shown(facts.last.at_ms),
            facts.bytes
        ),
        None => format!(
            "part {}: number {}, unfinished or damaged: a start removes it, or refuses if it is to be there",
            part.file, part.part.0
        ),
    }];
    lines.extend(part.damage.iter().map(|damage| {
        format!(
            "  damage at byte {}, {} messages: {}",
            damage.offset, damage.messages, damage.reason
        )
    }));
    lines
}

fn to_lines(report: &Report) -> Vec<String> {
    let Some(version) = report.format_version else {
        return vec!["no log was ever begun here".to_owned()];
    };
    let mut lines = vec![format!(
        "log of format {version}, readable to position {}: {}",
        report.end.0,
        ending(report)
    )];
    match &report.checkpoint {
        Some(checkpoint) => lines.push(format!(
            "checkpoint {}: {} entries of {} bytes, replay from position {}",
            checkpoint.file, checkpoint.entries, checkpoint.entry_bytes, checkpoint.replay_from.0
        )),
        None => lines.push("no checkpoint: a start replays the whole log".to_owned()),
    }
    lines.extend(
        report
            .broken_checkpoints
            .iter()
            .map(|name| format!("checkpoint {name} is not whole and is not used")),
    );
    for segment in &report.segments {
        let records: Vec<String> = segment.records.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let epochs = segment.epochs.map_or_else(
            || "no epoch".to_owned(),
            |(first, last)| format!("epochs {} to {}", first.0, last.0),
        );
        lines.push(format!(
            "segment {}: positions {} to {}, {} frames, {epochs}, index {}",
            segment.file,
            segment.base.0,
            segment.end.0,
            segment.frames,
            sidecar(segment.sidecar)
        ));
        lines.push(format!("  records: {}", records.join(", ")));
    }
    for (queue, stored) in &report.queues {
        lines.push(format!(
            "queue {}/{}: offsets {} to {}, {} bytes",
            queue.topic.0, queue.index.0, stored.first.0, stored.end.0, stored.bytes
        ));
    }
    lines.extend(report.parts.iter().flat_map(part_lines));
    if !report.spares.is_empty() {
        lines.push(format!("spare files: {}", report.spares.join(", ")));
    }
    for damage in &report.damage {
        lines.push(format!(
            "damage in {} at position {}, {} bytes: {}",
            damage.file, damage.position.0, damage.bytes, damage.reason
        ));
    }
    lines
}

fn ending(report: &Report) -> String {
    match report.ending {
        Ending::Clean => "ends cleanly".to_owned(),
        Ending::TornTail { bytes } => format!("a torn tail of {bytes} bytes follows, never confirmed, which a start cuts"),
        Ending::Damaged => "damaged: confirmed bytes should follow".to_owned(),
    }
}

fn sidecar(state: SidecarState) -> &'static str {
    match state {
        SidecarState::NotDue => "not due yet",
        SidecarState::Whole => "whole",
        SidecarState::Missing => "missing, made again at the next start",
        SidecarState::Broken => "broken, made again at the next start",
    }
}
