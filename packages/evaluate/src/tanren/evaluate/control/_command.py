"""The command line of `evaluate control`; imports neither torch nor transformers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from tanren.common.errors import UserError
from tanren.common.recipe_command import print_plan
from tanren.common.run import refuse_existing
from tanren.common.task_packs import load_control

from ._flags import ModelFlags
from ._resume import find_resumed
from ._settings import INITIAL_KWH, TASK, ControlSettings


def control_command(
    weather: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="WEATHER.csv ...")] = (),
    *,
    policy: Annotated[str, tyro.conf.arg(metavar="always-0..3|optimal|greedy-rule|MODEL")],
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = ModelFlags(),  # noqa: B008 (frozen)
    initial_kwh: float = INITIAL_KWH,
    generate: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    seed: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    task: str = TASK,
    runs: Path = Path("runs"),
    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    resume: Annotated[str | None, tyro.conf.arg(metavar="latest|RUN_DIRECTORY")] = None,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
    as_json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = False,
) -> int:
    """Let a policy or a model run a plant in closed loop, and compare it with the optimum and with simple policies.

    Net CO2 says nothing alone, as a plant that is always off emits nothing: judged is the penalised cost, in which unserved
    demand counts. A decision that fails is counted as failed, and is no other action. The run directory holds the figures, the
    decision log, a plot of each week and the report.

    Args:
        weather: Weather files, a week each.
        policy: Who decides: a policy that asks no model, or a model: folder, run directory, adapter, hub id, builtin:NAME.
        model: What concerns a model alone.
        initial_kwh: Energy in the storage when a week begins.
        generate: Make so many weeks from the seed, in place of files.
        seed: Of the weeks that are made, and of answers that are drawn. Not set: 0.
        task: The task pack whose plant it is.
        runs: Folder of the run directories.
        run_dir: This run's directory; must not exist. Not set means <runs>/control-<time>.
        resume: Go on with an interrupted run, of the same weeks, settings and model: what its log has is not asked again.
        dry_run: Say what would be controlled, asked and written, and do nothing.
        as_json: Print one JSON object on standard output: of one week its figures, of several `weeks` and `summary`; with
            --dry-run the plan.
    """
    if resume is None:
        refuse_existing(run_dir)
    model.check()
    weeks_with = partial(load_control(task), weather, generate=generate, seed=seed or 0, initial_kwh=initial_kwh)
    weeks = weeks_with(prompt="full")
    candidate = None
    if policy in weeks[0].policies:
        if model.given():
            raise UserError(f"{', '.join(model.given())}: no effect, as {policy} asks no model; leave that out")
    else:
        from ._candidate import find_candidate

        candidate = find_candidate(policy, model, task, weeks[0].policies, runs)
        weeks = weeks_with(prompt=candidate.prompt)
    if seed is not None and not generate and (candidate is None or model.drawn is None):
        raise UserError(f"--seed {seed} has no effect: no week is made, and no answer drawn; leave it out")
    settings = ControlSettings(weather, policy, model, candidate, initial_kwh, generate, seed, task)
    earlier = find_resumed(resume, settings, runs, run_dir) if resume is not None else None
    if dry_run:
        from ._plan import plan_facts

        notes = [] if candidate is None else [note.removeprefix("warning: ") for note in candidate.notes]
        print_plan(settings, plan_facts(settings, weeks, runs, run_dir, earlier), notes, as_json=as_json)
        return 0
    from ._job import run_control

    return run_control(settings, weeks, runs, run_dir, earlier, as_json=as_json)
