"""How the command prints its answers: one function per kind, and JSON for all of them."""

import json
from pathlib import Path
from typing import Any

from storage import records
from storage.store_layout import report_folder


def show(answer: Any, as_json: bool, show: Any) -> None:
    """Prints an answer, a record or a mapping: as JSON, or as its own function puts it for people."""
    document = records.as_json(answer)
    if as_json:
        print(json.dumps(document, indent=1, ensure_ascii=False, default=str))
    else:
        show(document)


def show_tree(value: Any, indent: str = "") -> None:
    """Nested values, one per line; of long lists the first fifty."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            print(f"{indent}{key}:")
            show_tree(inner, indent + "  ")
        elif isinstance(inner, list):
            print(f"{indent}{key}: {len(inner)}")
            for item in inner[:50]:
                print(f"{indent}  {item}")
        else:
            print(f"{indent}{key}: {inner}")


def show_outcome(outcome: dict[str, Any]) -> None:
    """What a refresh did."""
    counts = outcome["counts"]
    sources = ", ".join(f"{n} {state}" for state, n in counts["sources"].items() if n and state != "total")
    print(
        f"{outcome['status']}: snapshot {outcome['number']} ({outcome['id'][:12]}) of {outcome['dataset']}: "
        f"{counts['clips']['kept']} of {counts['clips']['expected']} clips, {counts['hours_kept'] * 60:.1f} min, "
        f"{counts['subjects']} subjects; {counts['sources']['total']} sources: {sources}; {outcome['seconds']} s"
    )
    for name, why in outcome["skipped_features"].items():
        print(f"without {name}: {why}")
    for source, error in outcome["failed"].items():
        print(f"failed {source}: {error}; see `talkset explain {source}`")
    for system, decision in outcome.get("training", {}).items():
        print(f"training {system}: {decision['action']} ({'; '.join(decision['reasons'])})")
    print(f"report: {report_folder(Path(outcome['store']), outcome['number']) / 'index.html'}")


def show_dry_run(answer: dict[str, Any]) -> None:
    """What a refresh would do."""
    print(
        f"{answer['sources']} sources ({answer['unusable']} unusable, {answer['duplicates']} duplicates) in "
        f"{answer['shards']} shards; to do: {answer['cuts']} cuts ({answer['minutes']:.1f} min of video), "
        f"{answer['tables']} feature tables"
    )
    for name, why in answer["skipped_features"].items():
        print(f"without {name}: {why}")


def show_status(answer: dict[str, Any]) -> None:
    """Snapshots of a store."""
    size = f"{answer['bytes'] / 2**20:.1f} MiB in {answer['objects']} objects"
    print(f"{answer['store']}: dataset {answer['dataset']}, {size}")
    print(f"writer: {answer['writer'] or 'nobody'}")
    for line in answer["snapshots"]:
        held = f"{line['kept']} clips, {line['hours']:.3f} h"
        print(f"  {line['number']:6d}  {line['id'][:12]}  {line['created_at']}  {held}")


def show_explanation(answer: dict[str, Any]) -> None:
    """What happened to sources and their clips."""
    for source in answer["sources"]:
        reason = f" {source['reason']}" if source["reason"] else ""
        detail = f": {source['detail']}" if source["detail"] else ""
        print(f"{source['path']}  {source['state']}{reason}{detail}")
        _show_why(source, "  ")
        video = f"{source['codec']} {source['width_px']}x{source['height_px']} {source['avg_fps']:.3g} fps"
        print(f"  {video}, subject {source['subject']}, id {source['source_id']}")
        for clip in source["clips"]:
            _show_clip(clip)


def _show_why(explained: dict[str, Any], indent: str) -> None:
    """The step that gave the reason, its meaning, and what to change."""
    if why := explained["why"]:
        print(f"{indent}step: {why['step']}\n{indent}meaning: {why['meaning']}\n{indent}to change: {why['change']}")


def _show_clip(clip: dict[str, Any]) -> None:
    outcome = "kept" if clip["is_kept"] else f"dropped {clip['reason']}: {clip['detail']}"
    place = f"{clip['num_frames']} frames from {clip['start_s']:.2f} s, {clip['split']}"
    print(f"  {clip['name']}  {place}: {outcome}")
    _show_why(clip, "    ")
    scores = ", ".join(f"{name} {value:.4g}" for name, value in clip["scores"].items() if value == value)
    if scores:
        print(f"    {scores}")


def show_training(answer: dict[str, Any]) -> None:
    """What was trained, stage by stage."""
    print(f"{answer['system']} on snapshot {answer['number']} of {answer['dataset']} ({answer['snapshot'][:12]})")
    for line in answer["stages"]:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in line["metrics"].items())
        print(f"  {line['stage']}: {line['state']} after {line['step']} steps; {figures}\n    {line['model']}")


def show_verification(answer: dict[str, Any]) -> None:
    """Whether a snapshot is whole."""
    for problem in answer["problems"]:
        print(f"  {problem}")
    state = "whole" if answer["is_whole"] else f"{len(answer['problems'])} problems"
    print(f"snapshot {answer['snapshot']} ({answer['id'][:12]}): {state}")


def show_lineage(answer: dict[str, Any]) -> None:
    """Where a source went, what a snapshot led to, or what a checkpoint was made of."""
    {"source": _show_sources, "snapshot": _show_snapshot, "run": _show_run}[answer["kind"]](answer)
    if answer["gone"]:
        print("collected by gc: snapshots " + ", ".join(str(gone["number"]) for gone in answer["gone"]))


def _show_sources(answer: dict[str, Any]) -> None:
    for source in answer["sources"]:
        until = source["until"] if source["until"] is not None else "now"
        print(f"{', '.join(source['paths'])}  sha256 {source['sha256'][:12]}, snapshots {source['since']} to {until}")
        if source["takedown"]:
            print(f"  taken down {source['takedown']['taken_at']}: {source['takedown']['reason']}")
        for found in source["snapshots"]:
            kept = f"{found['num_clips']} clips {', '.join(found['splits'])}"
            print(f"  snapshot {found['number']} ({found['id'][:12]}): {found['state']}, {kept}")
        for run in source["runs"]:
            use = "trained on it" if run["is_trained_on"] else f"seen in {', '.join(run['splits'])}"
            way = "" if run["is_direct"] else f", through {run['through']}"
            _print_run(run, use + way)


def _show_snapshot(answer: dict[str, Any]) -> None:
    state = "collected by gc" if answer["is_gone"] else f"published {answer['created_at']}"
    print(f"snapshot {answer['number']} of {answer['dataset']} ({answer['id'][:12]}), {state}")
    print("  parents: " + (", ".join(f"{one['number']} ({one['id'][:12]})" for one in answer["parents"]) or "none"))
    for kind, sources in answer["sources"].items():
        print(f"  sources {kind}: {len(sources)}")
    for run in answer["runs"]:
        _print_run(run, "made from it")


def _show_run(answer: dict[str, Any]) -> None:
    _print_run(answer["run"], "this run")
    for parent in answer["parents"]:
        print(f"    starts from {parent['run']} ({parent['as']}{', gone' if parent['is_gone'] else ''})")
    for data in answer["data"]:
        print(f"  snapshot {data['number']} ({data['id'][:12]}): {len(data.get('sources', []))} sources")
        for split, subjects in data.get("subjects", {}).items():
            print(f"    {split}: {', '.join(subjects)}")
        for source in data.get("sources", []):
            if source["is_taken_down"]:
                print(f"    taken down meanwhile: {source['path']} ({source['split']}, {source['num_clips']} clips)")
    for weight in answer["weights"]:
        bound = ", non-commercial" if weight["is_noncommercial"] else ""
        print(f"  weights {weight['name']} {weight['sha256'][:12]}: {weight['licence']}{bound}")


def _print_run(run: dict[str, Any], use: str) -> None:
    files = ", ".join(f"{one['file']} {one['sha256'][:12]}" for one in run["checkpoints"] if one["kind"] == "model")
    print(f"  {run['run']} ({run['preset']}, {run['state']}): {use}; {files or 'no model file'}")


def show_takedown(answer: dict[str, Any]) -> None:
    """What was taken down, whom it concerns, and what is left to do."""
    entry = answer["takedown"]
    print(f"{entry['path']} {'is taken down' if answer['is_new'] else 'was taken down before'}: {entry['reason']}")
    for run in answer["runs"]:
        _print_run(run, "trained on it" if run["is_trained_on"] else f"seen in {', '.join(run['splits'])}")
    for line in answer["next"]:
        print(f"- {line}")


def show_takedowns(answer: dict[str, Any]) -> None:
    """The list of takedowns."""
    for entry in answer["takedowns"]:
        where = "still in the latest snapshot: refresh" if entry["is_in_latest"] else "out"
        print(f"{entry['path']}  {entry['taken_at']}  {entry['reason']}  ({where})")
    print(f"{len(answer['takedowns'])} takedowns")
