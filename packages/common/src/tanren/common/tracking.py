"""Experiment tracking: MLflow beside metrics.jsonl, or nothing. metrics.jsonl stays the truth."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tanren.common.config import ConfigModel, TrackingConfig, flatten
from tanren.common.console import Console
from tanren.common.run import RunDirectory

# Seconds between two writes, and metrics in one (the store takes 1,000).
INTERVAL, MOST = 5.0, 900


class Tracker(Protocol):
    """Where a run's numbers also go."""

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Log final numbers and close; `status` is MLflow's: FINISHED, FAILED or KILLED."""


class NoTracker:
    """Tracks nothing."""

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Do nothing."""


class MlflowTracker:
    """Logs to MLflow; the store is a SQLite file (MLflow's file store is deprecated)."""

    def __init__(self, config: TrackingConfig, runs: Path, run_name: str, parameters: ConfigModel) -> None:
        """Open or create the experiment and start a run."""
        # Creating the database prints a line for each of its ~60 schema migrations.
        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        runs.mkdir(parents=True, exist_ok=True)
        self.uri = config.mlflow_uri or f"sqlite:///{(runs / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=self.uri)
        experiment = self._client.get_experiment_by_name(config.experiment)
        artifacts = None if config.mlflow_uri else (runs / "mlflow-artifacts").resolve().as_uri()
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(config.experiment, artifact_location=artifacts)
        )
        self._run_id = self._client.create_run(experiment_id, run_name=run_name).info.run_id
        from mlflow.entities import Metric, Param

        flat = flatten(parameters.model_dump(mode="json"))
        self._unwritten: list[Metric] = []
        self._written = time.time()
        self._client.log_batch(self._run_id, params=[Param(key, str(value)[:500]) for key, value in flat.items()])

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Take one step's numbers; they are written every few seconds, for a GPU waits meanwhile."""
        from mlflow.entities import Metric

        now = time.time()
        self._unwritten += [Metric(key, value, int(now * 1000), step) for key, value in values.items() if key != "step"]
        if now - self._written > INTERVAL or len(self._unwritten) > MOST:
            self._write()

    def _write(self) -> None:
        if self._unwritten:
            self._client.log_batch(self._run_id, metrics=self._unwritten)
        self._unwritten, self._written = [], time.time()

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Log the evaluation's numbers and close the run."""
        self._write()
        for key, value in metrics.items():
            self._client.log_metric(self._run_id, key, value)
        self._client.set_terminated(self._run_id, status)


def open_tracker(
    tracking: TrackingConfig, runs: Path, parameters: ConfigModel, run: RunDirectory, console: Console
) -> Tracker:
    """Return the tracker that a recipe asks for, and say where it writes; `parameters` are the whole recipe."""
    if not tracking.mlflow:
        return NoTracker()
    with console.phase("open MLflow", "off with --tracking.no-mlflow"):
        tracker = MlflowTracker(tracking, runs.expanduser(), run.label, parameters)
    console.line(f"MLflow: {tracker.uri} (look with: mlflow ui --backend-store-uri {tracker.uri})")
    return tracker
