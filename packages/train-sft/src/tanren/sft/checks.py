"""Settings that exclude one another, or that would have no effect in this run: each is an error or a warning that names it."""

from __future__ import annotations

from collections.abc import Mapping

from tanren.common.config import Loaded, flatten
from tanren.common.errors import UserError
from tanren.sft.config import SftConfig
from tanren.sft.rows import check_data


def check_effects(loaded: Loaded[SftConfig]) -> tuple[str, ...]:
    """Refuse settings that would have no effect in this run; return a warning where a flag outranks the recipe."""
    config, origins = loaded.config, loaded.origins
    warnings: list[str] = []
    check_data(loaded)
    given = "data.file" if config.data.file is not None else "data.sources" if config.data.sources else None
    if given is not None:
        named = [name for name in origins if name.startswith("task.")]
        by_recipe = all(origins[name].startswith("recipe") for name in named)
        if named and (not by_recipe or origins[given].startswith("recipe")):
            raise UserError(f"{named[0]} ({origins[named[0]]}) has no effect with {given}; remove one of the two")
        if named:
            warnings.append(f"{given} ({origins[given]}) replaces the task pack: {', '.join(named)} have no effect")
        if config.evaluation.enabled:
            raise UserError(
                f"evaluation needs a task pack's held-out rows, and {given} replaces the pack; turn it off with --evaluation.no-enabled"
            )
    if config.train.max_steps and "train.epochs" in origins:
        with_steps = f"train.max_steps = {config.train.max_steps}"
        warnings += _without_effect(origins, "train.epochs", "train.max_steps", with_steps)
    _check_learned(loaded)
    warnings += (*_check_method(loaded), *_check_between_steps(loaded))
    if not config.tracking.mlflow:
        for name in ("tracking.mlflow_uri", "tracking.experiment"):
            if name in origins:
                warnings += _without_effect(origins, name, "tracking.mlflow", "tracking.mlflow off")
    return tuple(warnings)


def _without_effect(origins: Mapping[str, str], name: str, by: str, told: str) -> tuple[str, ...]:
    """Refuse a setting that another leaves without effect; where a flag or variable outranks the recipe so, warn."""
    if origins[name].startswith("recipe") and not origins.get(by, "recipe").startswith("recipe"):
        return (f"{name} ({origins[name]}) has no effect with {told} ({origins[by]})",)
    raise UserError(f"{name} ({origins[name]}) has no effect with {told}; remove one of the two")


def check_takes_parent(config: SftConfig) -> None:
    """Raise UserError where nothing can be merged into the model before it is trained."""
    if config.train.engine == "unsloth":
        raise UserError(
            "train.engine = unsloth loads the weights its own way, and a parent is merged into them before they are quantised; for "
            "model.parent and later stages write train.engine = native"
        )


def _check_learned(loaded: Loaded[SftConfig]) -> None:
    data, origins = loaded.config.data, loaded.origins
    if data.learn_answer == "whole":
        for name in ("data.markers", "data.no_marker"):
            if name in origins:
                raise UserError(
                    f"{name} ({origins[name]}) has no effect with data.learn_answer = whole; remove it, or set "
                    "data.learn_answer to after_marker or from_marker"
                )
    elif not data.markers or not all(marker.strip() for marker in data.markers):
        raise UserError(f"data.markers: found {data.markers!r}, expected words that stand before the result")


def _check_between_steps(loaded: Loaded[SftConfig]) -> tuple[str, ...]:
    """Refuse what hangs on a validation or an evaluation that does not take place; return a warning where rows are kept for none."""
    config, origins = loaded.config, loaded.origins
    kept = "data.validation" if config.data.validation else "data.validation_share"
    is_kept = bool(config.data.validation or config.data.validation_share)
    from_pack = config.data.file is None and not config.data.sources
    if config.validation.every_steps and not is_kept and not from_pack:
        raise UserError(
            "validation.every_steps needs rows that are not trained on: set data.validation_share or [[data.validation]]"
        )
    needs = (
        ("validation.patience", "validation.every_steps"),
        ("validation.min_delta", "validation.every_steps"),
        ("validation.restore_best", "checkpoint.keep_best"),
        ("checkpoint.keep_best", "validation.every_steps"),
        ("evaluation.every_steps", "evaluation.enabled"),
        ("evaluation.step_rows", "evaluation.every_steps"),
        ("train.spike_patience", "train.spike_factor"),
    )
    values = flatten(config.model_dump())
    for name, needed in needs:
        if name in origins and values[name] and not values[needed]:
            raise UserError(f"{name} ({origins[name]}) has no effect without {needed}; remove it, or set {needed}")
    if "optim.min_lr_ratio" in origins and config.optim.schedule == "constant":
        raise UserError(
            f"optim.min_lr_ratio ({origins['optim.min_lr_ratio']}) has no effect with optim.schedule = constant; remove one of the two"
        )
    if is_kept and not config.validation.every_steps:
        return (f"{kept}: rows are kept out of training, and no loss is taken on them; set validation.every_steps",)
    return ()


def _check_method(loaded: Loaded[SftConfig]) -> tuple[str, ...]:
    """Refuse settings of a method or engine that is not this run's, and adapters that cannot be had; return warnings."""
    config, origins = loaded.config, loaded.origins
    if config.train.method == "lora":
        _check_adapter(config)
        return _check_unsloth(loaded) if config.train.engine == "unsloth" else ()
    named = [name for name in sorted(origins) if name.startswith("lora.")]
    told = ", ".join(f"{name} ({origins[name]})" for name in named)
    replaced = all(origins[name].startswith("recipe") for name in named) and not origins["train.method"].startswith(
        "recipe"
    )
    if named and not replaced:
        raise UserError(f"{told}: no effect with train.method = full, which has no adapter; remove one of the two")
    if config.model.quantisation != "none":
        raise UserError(
            f"model.quantisation = {config.model.quantisation} keeps frozen weights in fewer bits, and train.method = full freezes none: take one"
        )
    if config.train.experts == "grouped":
        raise UserError(
            "train.experts = grouped leaves the experts' own weights as they are, and train.method = full trains them: take one"
        )
    if config.train.engine == "unsloth":
        raise UserError(
            "train.engine = unsloth trains adapters here; with train.method = full write train.engine = native"
        )
    return (f"train.method = full ({origins['train.method']}): {told} have no effect",) if named else ()


def _check_unsloth(loaded: Loaded[SftConfig]) -> tuple[str, ...]:
    """Refuse what unsloth has no place for here; return what is to be known before."""
    config, origins = loaded.config, loaded.origins
    refused = {
        "model.device = cpu": (config.model.device == "cpu", "it needs a CUDA device"),
        "model.quantisation = int8": (
            config.model.quantisation == "int8",
            "8-bit models take another path through it, which has not been tried",
        ),
        "model.quantisation = fp8": (config.model.quantisation == "fp8", "it loads its weights its own way"),
        "lora.dora": (config.lora.dora, "its fused kernels leave DoRA out"),
        "lora.target_parameters": (bool(config.lora.target_parameters), "it packs samples of dense models alone"),
        f"train.gradient_checkpointing = {config.train.gradient_checkpointing}": (
            config.train.gradient_checkpointing in ("selective", "auto"),
            "it recomputes all layers (full) or none, and which of them is not planned for it",
        ),
        "model.parent": (
            config.model.parent is not None,
            "its layers are made before parents could be merged into them",
        ),
        "train.layers = fused": (config.train.layers == "fused", "it has layers of its own"),
        "train.experts": (config.train.experts != "auto", "it computes experts its own way"),
        "train.attention": (config.train.attention != "auto", "it attends by itself"),
        "train.neftune_alpha": (config.train.neftune_alpha > 0, "noise has not been tried in its forward pass"),
    }
    for name, (asked, why) in refused.items():
        if asked:
            where = f" ({origins[key]})" if (key := name.partition(" ")[0]) in origins else ""
            raise UserError(f"train.engine = unsloth cannot have {name}{where}: {why}; or write train.engine = native")
    warnings = ["the memory plan is that of the native engine; unsloth's has not been compared with it"]
    if config.lora.dropout:
        warnings.append(
            f"lora.dropout = {config.lora.dropout}: unsloth may leave its fused LoRA kernels out then; 0 is its fast setting"
        )
    return tuple(warnings)


def _check_adapter(config: SftConfig) -> None:
    if config.lora.dora and config.model.quantisation == "int8":
        raise UserError(
            "lora.dora cannot be had with model.quantisation = int8: PEFT 0.21 loses the layers' scales when it reads them on a "
            "CPU, and on a GPU it has not been tried; take nf4, or write lora.dora = false"
        )
    if config.lora.dora and config.model.quantisation == "fp8":
        raise UserError(
            "lora.dora cannot be had with model.quantisation = fp8: PEFT reads the lengths of the weights, which are kept as bytes and "
            "scales; take nf4, or write lora.dora = false"
        )
    if not config.lora.target_parameters:
        return
    if config.lora.dropout:
        raise UserError(
            f"lora.dropout = {config.lora.dropout} cannot be had with lora.target_parameters: what is learned there is added "
            "to the weights themselves, so there is no input to drop; write lora.dropout = 0"
        )
    if config.lora.dora:
        raise UserError(
            "lora.dora cannot be had with lora.target_parameters: it is defined for linear layers, and fused experts are none; "
            "write lora.dora = false, or leave the experts out"
        )
