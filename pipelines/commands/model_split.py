"""`recsys-meta models split`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from pipelines.commands.model_publication import ACTOR, check_quality, try_version
from pipelines.console import Json, ModelArgument, out, print_json, print_table
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.model_registry.registry import live_version, resolve_version
from recsys_meta.store.model_registry.split_arms import SplitArm, TrafficSplit
from recsys_meta.store.model_registry.split_results import ArmResult, split_results
from recsys_meta.store.model_registry.traffic_splits import SplitDetail, split_detail, start_split, stop_split


def split_command(
    name: ModelArgument,
    arms: Annotated[
        list[str] | None, typer.Argument(help="VERSION=WEIGHT or LABEL:VERSION=WEIGHT, one for each arm.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End the split: the live version answers all again.")] = False,
    salt: Annotated[str | None, typer.Option(help="What decides, with an entity's id, on its arm.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even an arm that loses to the simplest baseline, or was never evaluated.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let versions answer side by side, each for its share of the entities; without arms, show the split and its
    results, or those of the last one."""
    if arms and off:
        raise ConfigError("either arms or --off")
    workspace = Workspace()
    if arms:
        parsed_arms = [parse_arm(text) for text in arms]
        with workspace.reading() as session:
            resolved_arms = [
                SplitArm(a.label or v, v, a.weight)
                for a in parsed_arms
                for v in [resolve_version(session, f"{name}@{a.version}").version]
            ]
            live = live_version(session, name)
        for arm in resolved_arms:
            try_version(workspace, name, arm.version)
            if not force and live is not None and arm.version != live.version:
                check_quality(workspace, name, arm.version)
        with workspace.session() as session:
            split = start_split(session, name, resolved_arms, salt=salt, actor=ACTOR, force=force)
            record_action(session, "split", f"{name} split {split.sequence}", actor=ACTOR)
    elif off:
        with workspace.session() as session:
            stop_split(session, name, actor=ACTOR)
            record_action(session, "split off", name, actor=ACTOR)
    with workspace.reading() as session:
        _show_split(split_detail(session, name), split_results(session, name), as_json)


def parse_arm(text: str) -> SplitArm:
    """Parse an arm, VERSION=WEIGHT or LABEL:VERSION=WEIGHT, with an empty label by default.

    Raises ConfigError.
    """
    match = re.fullmatch(r"(?:([A-Za-z0-9_.\-]+):)?([A-Za-z0-9]+)=([0-9.eE+\-]+)", text)
    try:
        weight = float(match[3]) if match else None
    except ValueError:
        weight = None
    if match is None or weight is None:
        raise ConfigError(f"{text!r} is no arm; write VERSION=WEIGHT, for example 3f2a=0.1, or LABEL:VERSION=WEIGHT")
    return SplitArm(match[1] or "", match[2], weight)


def _show_split(detail: SplitDetail, results: list[ArmResult], as_json: bool) -> None:
    def plain(change: TrafficSplit) -> dict[str, Any]:
        return {
            "arms": [vars(arm) for arm in change.arms], "salt": change.salt, "actor": change.actor, "at": change.at
        }  # fmt: skip

    if as_json:
        stands = None if detail.split is None else plain(detail.split)
        print_json(
            {
                "name": detail.name,
                "live": detail.live,
                "split": stands,
                "history": [plain(c) for c in detail.history],
                "results": [result._asdict() for result in results],
            }
        )
        return
    if detail.split is None:
        out.print(f"[bold]{detail.name}[/] is not split; {detail.live or 'nothing'} is live")
    else:
        rows = [(arm.label, arm.version, arm.weight) for arm in detail.split.arms]
        print_table(f"{detail.name}, live: {detail.live or '-'}", ("arm", "version", "share"), rows)
    newest = [result for result in results if result.sequence == results[0].sequence]
    if newest:
        _print_results(newest)


def _print_results(results: list[ArmResult]) -> None:
    """Print what the arms of one split showed."""
    title = f"Answers to lists, split {results[0].sequence}" + (" (ended)" if results[0].ended else "")
    columns = ("arm", "entities", "events", "hit@10", "difference", "95% at any time", "p", "verdict")
    rows = [
        (
            r.label,
            r.entities,
            r.lists,
            r.hit_10,
            r.difference,
            None if r.difference_low is None else f"{r.difference_low:.4f} to {r.difference_high:.4f}",
            r.p,
            r.verdict,
        )
        for r in results
    ]
    print_table(title, columns, rows)


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("split")(split_command)
