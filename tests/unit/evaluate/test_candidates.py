"""Several candidates in one run: each answers as it does alone, on a base that is loaded once and left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tanren.common.chain import read_adapter

Evaluate = Callable[..., int]
MakeAdapter = Callable[..., Path]


def _predictions(run: str, candidate: str) -> str:
    return Path(run, "evaluation", candidate, "predictions.jsonl").read_text(encoding="utf-8")


def _summary(run: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path(run, "summary.json").read_text(encoding="utf-8"))
    return values


@pytest.fixture
def chain(make_adapter: MakeAdapter) -> dict[str, Path]:
    """Three runs: two on the base, and one on the base with the first merged into it."""
    one = make_adapter("one", 1)
    return {
        "one": one,
        "two": make_adapter("two", 2),
        "on-one": make_adapter("on-one", 3, read_adapter(one / "adapter").chain("float32")),
    }


def test_every_candidate_answers_in_company_as_it_does_alone(
    work: Path, evaluate: Evaluate, chain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from tanren.common.merge import merge_run

    merge_run(str(chain["two"] / "adapter"), work / "whole", None, None)
    capsys.readouterr()
    # the chain stands first, so that what follows shows that its parents are taken off the base again
    named = [f"--candidate=on-one={chain['on-one']}", "--candidate", str(chain["one"]), "--candidate", "one/adapter"]
    assert evaluate("quick.toml", *named, "--output.run-dir", "run") == 2
    assert "two candidates are named one" in capsys.readouterr().err
    named[-1] = "two/adapter"
    assert evaluate("quick.toml", *named, "--candidate", "whole", "--output.run-dir", "run") == 0
    told = capsys.readouterr().err
    assert told.count("load model: builtin:tiny-qwen3") == 1
    names = ["base", "on-one", "one", "two", "whole"]
    listed = json.loads(Path("run/evaluation/candidates.json").read_text(encoding="utf-8"))["candidates"]
    assert [(one["name"], one["kind"]) for one in listed] == [
        ("base", "base"), ("on-one", "adapter"), ("one", "adapter"), ("two", "adapter"), ("whole", "model"),
    ]  # fmt: skip
    assert [link["run"] for link in listed[1]["parents"]] == ["one"]
    for name in names[1:]:
        alone = ("quick.toml", "--no-base", "--candidate", f"{name}={name}", "--output.run-dir", f"alone-{name}")
        assert evaluate(*alone) == 0
        assert _predictions("run", name) == _predictions(f"alone-{name}", name)
    assert _predictions("run", "whole") == _predictions("run", "two")  # it is that one, merged
    assert len({_predictions("run", name) for name in names}) == 4
    assert "whoever takes the best of these 5 has chosen it on the items that it is reported on" in told


EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


@pytest.mark.parametrize(
    ("model", "lora", "quantisation"),
    [
        ("tiny-qwen3", {}, "none"),
        ("tiny-qwen3", {"dora": True}, "none"),
        ("tiny-qwen3", {}, "fp8"),
        ("tiny-qwen3-moe", EXPERTS, "none"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_the_base_is_bit_for_bit_what_it_was_after_adapters_and_parents(
    make_adapter: MakeAdapter, model: str, lora: dict[str, Any], quantisation: str
) -> None:
    import torch

    from tanren.common.config import Loaded
    from tanren.common.console import Console
    from tanren.evaluate.config import EvaluateConfig
    from tanren.evaluate.loaded_models import LoadedModels
    from tanren.evaluate.roster import settle_candidates

    one = read_adapter(make_adapter("one", 1, model=model, **lora) / "adapter")
    make_adapter("on-one", 2, one.chain("float32"), model=model, **lora)
    settings = {"name": f"builtin:{model}", "dtype": "float32", "device": "cpu", "threads": 1}
    named = [{"name": name, "adapter": str(one.folder.parents[1] / name)} for name in ("on-one", "one")]
    config = EvaluateConfig.model_validate({"model": {**settings, "quantisation": quantisation}, "candidates": named})
    loaded = Loaded(config, {"model.quantisation": "recipe"}, None)
    backend = LoadedModels(loaded, settle_candidates(config), Console())
    backend.prepare()
    assert [one.name for one in backend.order()] == ["base", "one", "on-one"]
    first: dict[str, dict[str, torch.Tensor]] = {}
    for candidate in [*backend.order(), *backend.order()]:  # twice: each is found again as it was
        with backend.serving(candidate) as engine:
            now = {key: value.clone() for key, value in engine._model.state_dict().items()}  # type: ignore[attr-defined]
        before = first.setdefault(candidate.name, now)
        assert now.keys() == before.keys()
        assert all(torch.equal(value, before[key]) for key, value in now.items())
    assert "lm_head.weight" in first["base"]
    below = {
        key.replace("base_model.model.", "").replace("base_layer.", ""): value for key, value in first["on-one"].items()
    }
    assert any(not torch.equal(value, first["base"][key]) for key, value in below.items() if key in first["base"])


def test_a_run_that_is_not_there_is_not_looked_for_in_the_network(
    work: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "runs" / "quick-20261122-101500").mkdir(parents=True)
    assert evaluate("quick.toml", "--candidate", "runs/quick-20261122-101501", "--dry-run") == 2
    assert "no such run in runs; did you mean quick-20261122-101500?" in capsys.readouterr().err
    assert evaluate("quick.toml", "--candidate", "runs/other", "--dry-run") == 2
    assert "no such run in runs; the newest there: quick-20261122-101500" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--no-base"], "nothing to evaluate"),
        (["--candidate", "base=one"], "two candidates are named base"),
        (["--candidate", "nowhere/else/at-all"], "no such folder, and not a hub id"),
        (["--candidate", "quick"], "no such folder, and not a hub id"),
        (["--candidate", "empty"], "no model in that folder"),
        (["--candidate", "moe"], "was trained on builtin:tiny-qwen3-moe, and model.name is builtin:tiny-qwen3"),
        (["--candidate", "other"], "was trained with the chat template 0123, its tokenizer has"),
        (["--generation.samples", "4"], "greedy answers are all the same; draw them with generation.temperature = 0.8"),
        (["--generation.top-p", "0.9"], "generation.top_p has no effect on greedy answers"),
        (["--generation.seed", "3"], "generation.seed has no effect: nothing is drawn"),
        (["--generation.selection", "0.5"], "generation.selection has no effect on one candidate"),
        (["--rank-by", "valid"], "rank_by has no effect on one candidate"),
        (["--generation.server", "http://127.0.0.1:1"], "generation.server has no effect with generation.engine"),
        (["--requests.parallel", "3"], "requests.parallel has no effect with generation.engine"),
        (["--generation.engine", "server"], "needs its address: generation.server ="),
        (["--resume", "latest"], "--resume latest: nothing to resume for 'quick'"),
        (["--adapter", "one"], "adapter"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_there_is_a_run_directory(
    work: Path,
    evaluate: Evaluate,
    make_adapter: MakeAdapter,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    told: str,
) -> None:
    named = flags[-1].rpartition("=")[2]
    if named in ("one", "other", "moe"):
        model = "tiny-qwen3-moe" if named == "moe" else "tiny-qwen3"
        make_adapter(named, 1, model=model, template="0123" * (named == "other"))
    (work / "empty").mkdir()
    try:
        code = evaluate("quick.toml", *flags)
    except SystemExit as end:  # an unknown flag ends in the parser
        code = int(str(end.code))
    assert code == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('name = "x"', "candidate 'x': set either adapter or model; found neither"),
        ('name = "x"\nadapter = "a"\nmodel = "b"', "set either adapter or model; found adapter and model"),
        ('name = "x"\nadapter = "one"\nrevision = "main"', "revision is of a hub model"),
        ('name = "../x"\nmodel = "b"', "candidates.0.name"),
        ('name = "x"\nmodel = "one"', "is an adapter; write adapter ="),
        ('name = "x"\nadapter = "whole"', "no adapter_config.json there"),
        ('name = "x"\nserved = "y"', "served has no effect"),
    ],
)
def test_a_table_that_names_no_candidate_is_told(
    work: Path,
    evaluate: Evaluate,
    make_adapter: MakeAdapter,
    capsys: pytest.CaptureFixture[str],
    table: str,
    told: str,
) -> None:
    make_adapter("one", 1)
    (work / "whole").mkdir()
    (work / "whole" / "config.json").write_text("{}", encoding="utf-8")
    recipe = work / "quick.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8") + f"\n[[candidates]]\n{table}\n", encoding="utf-8")
    assert evaluate("quick.toml", "--dry-run") == 2
    assert told in capsys.readouterr().err


def test_a_candidate_with_another_chat_template_is_refused_unless_asked_and_its_own_configuration_repeats_a_run(
    work: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    from tanren.common.models.load import load_tokenizer, model_location
    from tanren.common.models.source import resolve_source

    with model_location(resolve_source("builtin:tiny-qwen3")) as (folder, _):
        Path(folder).rename(work / "other")
        Path(folder).mkdir()
    tokenizer = load_tokenizer(resolve_source("other"))
    tokenizer.chat_template = str(tokenizer.chat_template) + " "
    tokenizer.save_pretrained("other")
    flags = ("--candidate", "other", "--output.run-dir", "run")
    assert evaluate("quick.toml", *flags) == 2
    assert "the candidates have different chat templates" in capsys.readouterr().err
    assert not Path("run").exists()
    assert evaluate("quick.toml", *flags, "--allow-other-template") == 0
    assert evaluate("run/config.toml", "--output.run-dir", "again") == 0
    for name in ("base", "other"):
        assert _predictions("run", name) == _predictions("again", name)


def test_several_samples_are_drawn_scored_and_scored_again_to_the_same_numbers(
    work: Path, evaluate: Evaluate, pack_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ("--generation.samples", "4", "--generation.temperature", "2", "--generation.top-p", "0.9")
    for run in ("run", "same"):
        assert evaluate("quick.toml", *drawn, "--output.run-dir", run) == 0
    assert "4 samples of each of 4 items" in capsys.readouterr().err
    assert _predictions("run", "base") == _predictions("same", "base")
    assert evaluate("quick.toml", *drawn, "--generation.seed", 1, "--output.run-dir", "other") == 0
    assert _predictions("run", "base") != _predictions("other", "base")
    lines = [json.loads(line) for line in _predictions("run", "base").splitlines()]
    assert [line["sample"] for line in lines] == [0, 1, 2, 3] * 4
    assert len({line["completion"] for line in lines}) > 8
    capsys.readouterr()
    path = "run/evaluation/base/predictions.jsonl"
    assert evaluate("score", pack_folder, path, "--json") == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored == _summary("run")["evaluation"]["candidates"]["base"]
    assert scored["samples"] == 4
    assert list(scored["by_group"]["all"]["pass_at"]) == ["1", "2", "4"]
    assert evaluate("submit", pack_folder, path, "--tasks", "run/evaluation/tasks.jsonl", "--out", "x.json") == 2
    assert "4 samples of each task, and a submission has one answer" in capsys.readouterr().err


def test_the_best_is_chosen_on_one_part_and_reported_on_the_other(
    work: Path, evaluate: Evaluate, chain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    named = [f"--candidate={path}" for path in chain.values()]
    assert evaluate("quick.toml", *named, "--generation.selection", "0.5", "--output.run-dir", "run") == 0
    found = _summary("run")["evaluation"]["selection"]
    assert (found["on_selection"]["base"]["n"], found["on_rest"]["base"]["n"]) == (2, 2)
    told = capsys.readouterr().err
    assert "chosen on 2 items (drawn by seed 0)" in told
    assert "has chosen it on the items" not in told


def test_a_trained_run_named_as_candidate_answers_as_it_did_after_training(
    work: Path, evaluate: Evaluate, pack_folder: Path
) -> None:
    from tanren.common.command import run_command
    from tanren.sft.cli import _main as train_sft

    recipe = (work / "quick.toml").read_text(encoding="utf-8").replace("[generation]", "[evaluation]")
    (work / "train.toml").write_text(recipe + "[tracking]\nmlflow = false\n", encoding="utf-8")
    flags = ["--train.max-steps", "2", "--optim.lr", "0.05", "--output.run-dir", "trained-run"]
    assert run_command(train_sft, ["train.toml", *flags]) == 0
    assert evaluate("quick.toml", "--candidate", "trained-run", "--output.run-dir", "run") == 0
    assert _predictions("run", "base") == _predictions("trained-run", "base")
    assert _predictions("run", "trained-run") == _predictions("trained-run", "trained")
    assert _predictions("run", "trained-run") != _predictions("run", "base")
