"""What a controlled run is asked for: as it is recorded, and as the command line that asks for it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tanren.common.config import GenerationConfig
from tanren.common.workspace import sha256_of

from ._candidate import Candidate
from ._flags import ModelFlags

TASK, INITIAL_KWH = "tes", 150.0
"""What holds where nothing else is said."""
FLAG = "command line"


@dataclass(frozen=True)
class ControlSettings:
    """One command line of `evaluate control`, with the model that its policy names."""

    weather: tuple[Path, ...]
    policy: str
    flags: ModelFlags
    candidate: Candidate | None
    """None: the policy asks no model."""
    initial_kwh: float
    generate: int
    seed: int | None
    task: str

    @cached_property
    def recorded(self) -> Mapping[str, Any]:
        """The settings as nested JSON types; of weather files their hashes too, as these say what was controlled."""
        control: dict[str, Any] = {
            "weather": [str(path) for path in self.weather],
            "policy": self.policy,
            "initial_kwh": self.initial_kwh,
            "generate": self.generate,
            "seed": self.seed or 0,
            "task": self.task,
        }
        if self.weather:
            control["weather_sha256"] = {path.name: sha256_of(path) for path in self.weather}
        if self.candidate is None:
            return {"control": control}
        temperature, top_p = self.flags.drawn or (0.0, 1.0)
        control |= {
            "prompt": self.candidate.prompt,
            "samples": self.flags.count,
            "vote": "majority",
            "temperature": temperature,
            "top_p": top_p,
        }
        model, adapter = self.candidate.loaded.values(), self.candidate.adapter
        return {
            "adapter": None if adapter is None else str(adapter),
            **{key: model[key] for key in ("allow_other_template", "model")},
            "generation": {key: model["generation"][key] for key in GenerationConfig.model_fields},
            "control": control,
        }

    def values(self) -> Mapping[str, Any]:
        """Return the settings as nested JSON types."""
        return self.recorded

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each setting that is not a default came from, by dotted names."""
        default = {"weather": (), "initial_kwh": INITIAL_KWH, "generate": 0, "seed": None, "task": TASK}
        given = [key for key, value in default.items() if getattr(self, key) != value]
        said = {f"control.{key}": FLAG for key in ("policy", *given)}
        said |= {f"control.weather_sha256.{path.name}": "of the file" for path in self.weather}
        if self.candidate is None:
            return said
        said |= {f"control.{flag.removeprefix('--').replace('-', '_')}": f"flag {flag}" for flag in self.flags.given()}
        return said | dict(self.candidate.loaded.origins)

    def arguments(self) -> list[str]:
        """Return the command line that asks for the same again, without where it is written to."""
        said = [
            *map(str, self.weather),
            "--policy",
            self.policy,
            "--initial-kwh",
            str(self.initial_kwh),
            "--task",
            self.task,
        ]
        if self.generate:
            said += ["--generate", str(self.generate)]
        if self.seed is not None:
            said += ["--seed", str(self.seed)]
        return [*said, *self.flags.arguments()]
