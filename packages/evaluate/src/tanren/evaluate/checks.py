"""Settings of evaluate that exclude one another, or have no effect beside others."""

from __future__ import annotations

from collections.abc import Iterator

from tanren.common.config import Loaded
from tanren.common.errors import UserError
from tanren.evaluate.config import EvaluateConfig

# Of weights in this process.
_LOCAL = (
    "model.dtype",
    "model.quantisation",
    "model.device",
    "model.threads",
    "generation.batch_size",
    "generation.attention",
)


def check_settings(loaded: Loaded[EvaluateConfig], candidates: int) -> list[str]:
    """Return warnings. Raises UserError for what contradicts something else, or was asked for and cannot have an effect."""
    generation = loaded.config.generation
    idle = [name for name in loaded.origins if name.startswith("task.options.")] if loaded.config.tasks else []
    warnings = (
        [
            f"{', '.join(idle)}: no effect, as tasks = {loaded.config.tasks} says what is asked ({loaded.origins['tasks']})"
        ]
        if idle
        else []
    )
    _check_draws(loaded)
    _check_choice(loaded, candidates)
    if generation.engine == "server":
        return warnings + list(_check_server(loaded))
    for name in ("generation.batch_size", "generation.attention") if generation.engine == "vllm" else ():
        if name in loaded.origins:
            raise UserError(
                f"{name} ({loaded.origins[name]}) has no effect with generation.engine = vllm; leave it out"
            )
    for name in loaded.origins:
        if name == "generation.server" or name.startswith("requests."):
            raise UserError(
                f"{name} has no effect with generation.engine = {generation.engine!r}; set it to server, or leave it out"
            )
    for one in loaded.config.candidates:
        if one.served is not None:
            raise UserError(
                f"candidate {one.name}: served has no effect with generation.engine = {generation.engine!r}; leave it out"
            )
    return warnings


def _check_draws(loaded: Loaded[EvaluateConfig]) -> None:
    generation = loaded.config.generation
    if generation.samples > 1 and not generation.temperature:
        raise UserError(
            f"generation.samples = {generation.samples}: greedy answers are all the same; draw them with generation.temperature = 0.8 "
            "(generation.top_p = 0.95), or leave samples at 1"
        )
    for name in ("top_p",) if not generation.temperature else ():
        if f"generation.{name}" in loaded.origins:
            raise UserError(
                f"generation.{name} has no effect on greedy answers; draw them with generation.temperature, or leave it out"
            )
    if "generation.seed" in loaded.origins and not generation.temperature and not generation.selection:
        raise UserError(
            "generation.seed has no effect: nothing is drawn (generation.temperature, generation.selection)"
        )


def _check_choice(loaded: Loaded[EvaluateConfig], candidates: int) -> None:
    for name, given in (
        ("generation.selection", loaded.config.generation.selection),
        ("rank_by", loaded.config.rank_by),
    ):
        if given and candidates == 1:
            raise UserError(f"{name} has no effect on one candidate: there is nothing to choose; leave it out")


def _check_server(loaded: Loaded[EvaluateConfig]) -> Iterator[str]:
    config = loaded.config
    server = config.generation.server
    if server is None:
        raise UserError(
            "generation.engine = 'server' needs its address: generation.server = \"http://127.0.0.1:8000/v1\""
        )
    if not server.startswith(("http://", "https://")):
        raise UserError(
            f"generation.server = {server!r}: expected http:// or https://, host, and the path before /completions"
        )
    if "@" in server or "?" in server:
        raise UserError(
            "generation.server holds a user, a password or a query, and it is recorded: leave that out, and give a key by the variable "
            "that requests.key_variable names"
        )
    if config.requests.total_s < config.requests.timeout_s:
        raise UserError(
            f"requests.total_s = {config.requests.total_s:g} is less than what one attempt may take (requests.timeout_s = "
            f"{config.requests.timeout_s:g}); lower that one, or raise it"
        )
    for name in _LOCAL:
        if name in loaded.origins:
            yield f"{name} ({loaded.origins[name]}) has no effect: the server at {server} decides that"
    if config.requests.api == "chat" and config.model.chat_template is not None:
        yield "model.chat_template has no effect with requests.api = 'chat': the server renders the prompts with its own"
