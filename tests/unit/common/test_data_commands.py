"""`tanren data inspect|validate|lengths|duplicates`: what they say of files, and their exit codes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tanren.common.cli import _main
from tanren.common.command import run_command

Data = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]


def _row(answer: str, prompt: str = "q", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **more}


ROWS = [
    _row('Plan.\nOutput:\n{"a": 1}', "json please", metadata={"format": "json"}),
    _row("Plan.\nOutput:\n{'a': 1}", "json please", metadata={"format": "json"}, id="r2"),
    _row("a: 1", "turn it", subcategory="xml_to_yaml", category="C_XML"),
    _row("<a><b></a>", "[red]xml[/red] please", category="C_XML"),
    _row("free text", "talk"),
]


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))  # whose task packs are meant, from a folder outside of it

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(_main, ["data", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def _write(name: str, rows: list[dict[str, Any]], more: str = "") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows) + more, encoding="utf-8")
    return name


def _real(name: str) -> str:
    for place in (ROOT.parent / "shared", ROOT.parent.parent / "shared"):
        if (place / "data" / "sft" / name).is_file():
            return str(place / "data" / "sft" / name)
    pytest.skip("no shared/data/sft beside the checkout")


@pytest.fixture
def v2() -> str:
    return _real("structured_512_v2_train.parquet")


@pytest.fixture
def v5() -> str:
    return _real("structured_512_v5_validation.jsonl")


def test_data_alone_lists_its_commands(data: Data) -> None:
    code, out, _ = data()
    assert code == 0
    assert [line.split()[2] for line in out.splitlines()] == [
        "inspect",
        "validate",
        "lengths",
        "duplicates",
        "show",
        "tes-q",
    ]
    code, _, err = data("validat", "x")
    assert (code, "did you mean validate?" in err) == (2, True)
    code, _, err = data("frobnicate")
    assert (code, "expected one of inspect, validate, lengths, duplicates, show, tes-q" in err) == (2, True)


@pytest.mark.parametrize("command", ["inspect", "validate", "lengths", "duplicates"])
def test_a_mistake_in_a_name_ends_with_one_message(data: Data, command: str) -> None:
    _write("rows.jsonl", ROWS)
    for arguments, told in (
        ([], "no source is named"),
        (["rows.json"], "did you mean rows.jsonl?"),
        (["rows.jsonl", "rows.jsonl"], "named twice"),
        (["rows.jsonl", "gone.csv"], "no file gone.csv"),
        (["rows.jsonl", "--layout", "chat"], "unknown layout 'chat'"),
    ):
        code, out, err = data(command, *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: ")
        assert told in err


def test_validate_judges_every_row_and_its_json_has_every_error(data: Data) -> None:
    source = _write("rows.jsonl", ROWS, more='{"messages": 3}\n')
    code, out, _ = data("validate", source, "--json")
    found = json.loads(out)
    assert code == 1
    assert {key: found[key] for key in ("rows", "valid", "invalid_by_format", "unread", "without_format")} == {
        "rows": 6,
        "valid": 2,
        "invalid_by_format": {"json": 1, "xml": 1},
        "unread": 1,
        "without_format": 1,
    }
    assert found["valid_by_format"] == {"json": 1, "yaml": 1}
    assert [(error["row"], error["format"]) for error in found["errors"]] == [
        ("rows.jsonl:2", "json"),
        ("rows.jsonl:4", "xml"),
        ("rows.jsonl:6", None),
    ]
    assert all(set(error) == {"row", "format", "message"} and error["message"] for error in found["errors"])


def test_validate_is_content_only_with_rows_that_are_all_valid(data: Data) -> None:
    assert data("validate", _write("good.jsonl", ROWS[:1]))[0] == 0
    assert data("validate", _write("bad.jsonl", ROWS[:2]))[0] == 1
    code, out, _ = data("validate", _write("free.jsonl", ROWS[4:]))
    assert code == 1
    assert "1 rows name none of the formats json, yaml, toml, xml, csv" in out
    code, out, _ = data("validate", "good.jsonl", _write("empty.jsonl", []))
    assert code == 1
    assert "empty.jsonl: holds no row" in out


def test_validate_counts_a_file_that_breaks_off_as_unread(data: Data) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([ROWS[0]] * 50), "rows.parquet")
    whole = Path("rows.parquet").read_bytes()
    Path("rows.parquet").write_bytes(whole[: len(whole) // 2])
    code, out, _ = data("validate", _write("good.jsonl", ROWS[:1]), "rows.parquet", "--json")
    found = json.loads(out)
    assert (code, found["rows"], found["valid"], found["unread"]) == (1, 1, 1, 1)
    assert found["errors"][0]["row"] == "rows.parquet"


def test_validate_shows_failing_rows_of_a_format(data: Data) -> None:
    source = _write("rows.jsonl", ROWS)
    code, out, _ = data("validate", source, "--format", "xml")
    assert code == 1
    assert "--- rows.jsonl:4: mismatched tag" in out
    assert "prompt:  [red]xml[/red] please" in out
    assert "payload:\n<a><b></a>" in out
    assert "--- rows.jsonl:2" not in out
    assert "rows.jsonl:2: json:" not in out
    _, out, _ = data("validate", source, "--show-rows", "1", "--max-errors", "1")
    assert out.count("--- ") == 1
    assert "... and 1 more (--max-errors N, --json for all)" in out
    for arguments, told in (
        (["--format", "html"], "--format 'html': expected one of json, yaml, toml, xml, csv"),
        (["--json", "--max-errors", "3"], "--max-errors has no effect with --json"),
        (["--json", "--show-rows", "3"], "--show-rows has no effect with --json"),
        (["--json", "--format", "xml"], "--format has no effect with --json"),
        (["--max-errors", "-1"], "--max-errors -1: expected 0 or more"),
    ):
        code, _, err = data("validate", source, *arguments)
        assert (code, told in err) == (2, True), err


def test_validate_tells_files_of_one_name_apart(data: Data) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        _write(f"{folder}/rows.jsonl", ROWS[:2])
    _, out, _ = data("validate", "one/rows.jsonl", "two/rows.jsonl", "--json")
    assert [error["row"] for error in json.loads(out)["errors"]] == ["one/rows.jsonl:2", "two/rows.jsonl:2"]


def test_validate_judges_the_answers_of_a_pack(data: Data) -> None:
    code, out, _ = data("validate", "pack:structured", "--split", "heldout", "--json")
    assert code == 0
    assert json.loads(out)["valid"] == json.loads(out)["rows"] > 0


def test_validate_takes_the_markers_that_are_given(data: Data) -> None:
    source = _write("rows.jsonl", [_row("Plan\nERGEBNIS\n{}", category="json")])
    assert data("validate", source)[0] == 1
    assert data("validate", source, "--markers", "ERGEBNIS")[0] == 0


def test_of_the_real_rows_those_are_invalid_that_elementtree_refuses(data: Data, v2: str, v5: str) -> None:
    import pyarrow.parquet as pq

    refused = []
    for number, row in enumerate(pq.read_table(v2).to_pylist(), start=1):
        if row["metadata"]["format"] == "xml":
            try:
                ET.fromstring(row["messages"][-1]["content"].split("\nOutput:\n", 1)[1])
            except ET.ParseError:
                refused.append(f"structured_512_v2_train.parquet:{number}")
    code, out, _ = data("validate", v2, "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["rows"], found["valid"], found["unread"], found["without_format"]) == (3933, 3869, 0, 0)
    assert found["invalid_by_format"] == {"xml": 64}
    assert [error["row"] for error in found["errors"]] == refused
    code, out, _ = data("validate", v5, "--json")
    assert (code, json.loads(out)["valid"], json.loads(out)["errors"]) == (0, 568, [])


def test_inspect_says_what_is_there(data: Data) -> None:
    long = [_row(f"a{n}", metadata={"text": f"t{n}", "kind": "x" if n % 3 else None}) for n in range(1200)]
    code, out, _ = data("inspect", _write("rows.jsonl", ROWS), _write("long.jsonl", long), "--json")
    assert code == 0
    rows, many = json.loads(out)["sources"]
    assert (rows["source"], rows["rows"], rows["unread"]) == ("rows.jsonl", 5, 0)
    assert rows["layouts"] == {"messages": 5}
    assert rows["keys"] == {"messages": 5, "metadata": 2, "id": 1, "subcategory": 1, "category": 2}
    assert rows["roles"] == {"user assistant": 5}
    assert rows["formats"] == {"json": 2, "yaml": 1, "xml": 1, "none": 1}
    assert (rows["with_marker"], rows["several_markers"], rows["empty_payloads"]) == (2, 0, 0)
    assert rows["metadata"]["category"] == {"rows": 2, "different": 1, "most_frequent": [["C_XML", 2]]}
    assert many["metadata"]["text"] == {"rows": 1200, "different": None, "most_frequent": []}
    assert many["metadata"]["kind"]["most_frequent"] == [["x", 800], ["null", 400]]


def test_inspect_tells_layouts_roles_and_faults_apart(data: Data) -> None:
    turns = [{"role": "system", "content": "s"}]
    turns += [{"role": role, "content": "x"} for role in ("user", "assistant") * 3]
    rows: list[dict[str, Any]] = [
        {"messages": turns},
        {"instruction": "i", "output": "Output:\n"},
        {"segments": [{"label": True, "text": "a"}]},
        {"instruction": "i", "output": ""},
    ]
    code, out, _ = data("inspect", _write("mixed.jsonl", rows))
    assert code == 1
    said = " ".join(out.split())
    assert "layout messages 1, alpaca 1, segments 1" in said
    assert "roles system (user assistant) x 3 1, user assistant 1, segments 1" in said
    assert "not read 1" in said
    assert "empty payloads 1" in said
    assert "mixed.jsonl:4: output: the last turn is empty" in said


def test_lengths_are_those_of_the_models_template(data: Data, tiny_tokenizer: Any) -> None:
    rows = [_row("word " * (10 * n), "q " * n, category="C_JSON") for n in range(1, 31)]
    rows += [_row("x", category="C_FEW")]
    code, out, _ = data("lengths", _write("rows.jsonl", rows), "--model", "builtin:tiny-qwen3", "--json")
    assert code == 0
    lengths = [
        len(
            tiny_tokenizer(
                tiny_tokenizer.apply_chat_template(row["messages"], tokenize=False), add_special_tokens=False
            )["input_ids"]
        )
        for row in rows
    ]
    found = json.loads(out)
    values = found["all"]
    assert (values["rows"], values["tokens"], values["min"], values["max"]) == (
        31,
        sum(lengths),
        min(lengths),
        max(lengths),
    )
    assert values["mean"] == pytest.approx(statistics.mean(lengths), abs=0.01)
    assert values["median"] == statistics.median(lengths)
    assert values["sd"] == pytest.approx(statistics.pstdev(lengths), abs=0.01)
    for limit, share in values["coverage"].items():
        assert share == pytest.approx(sum(length <= int(limit) for length in lengths) / 31, abs=1e-6)
    assert list(values["coverage"].values())[-1] == 1
    assert list(found["sources"]) == ["rows.jsonl"]
    assert found["formats"]["json"]["rows"] == found["categories"]["C_JSON"]["rows"] == 30
    assert "C_FEW" not in found["categories"]
    advice = found["recommendation"]
    limit = advice["max_tokens"]
    longer = [length for length in lengths if length > limit]
    assert len(longer) <= 0.05 * 31
    smaller = max((int(one) for one in values["coverage"] if int(one) < limit), default=0)
    assert sum(length > smaller for length in lengths) > 0.05 * 31
    assert (advice["rows"], advice["tokens_dropped"]) == (len(longer), sum(longer))
    assert advice["tokens_cut"] == sum(length - limit for length in longer)
    learned = sum(row["messages"][1]["content"].count("word") for row in rows)
    assert learned < values["supervised_tokens"] < values["tokens"]


def test_lengths_measure_segments_as_they_stand(data: Data, tiny_tokenizer: Any) -> None:
    pieces = [{"label": False, "text": "<q> one two"}, {"label": True, "text": " three"}]
    code, out, _ = data(
        "lengths", _write("rows.jsonl", [{"segments": pieces}]), "--model", "builtin:tiny-qwen3", "--json"
    )
    values = json.loads(out)["all"]
    whole, read = (len(tiny_tokenizer(text)["input_ids"]) for text in ("<q> one two three", "<q> one two"))
    assert (code, values["rows"], values["tokens"], values["supervised_tokens"]) == (0, 1, whole, whole - read)


def test_lengths_of_an_answer_that_the_tokenizer_cannot_write_are_not_made_up(data: Data) -> None:
    rows = [_row("fine")] * 3 + [_row("a\x04b")] + [_row("fine")] * 3
    code, out, _ = data("lengths", _write("rows.jsonl", rows), "--json")
    found = json.loads(out)
    assert (code, found["all"]["rows"], found["unread"]) == (1, 6, 1)
    (error,) = found["errors"]
    assert error["row"] == "rows.jsonl:4"
    assert error["message"].startswith("the tokenizer has no token for '\\x04'")


def test_lengths_are_printed_and_drawn(data: Data) -> None:
    rows = [_row("word " * n, metadata={"format": "json"}) for n in range(1, 400, 4)]
    source = _write("rows.jsonl", rows)
    for name, magic in (("out.png", b"\x89PNG"), ("out.svg", b"<?xml")):
        code, out, _ = data("lengths", source, "--model", "builtin:tiny-qwen3", "--plot", name)
        assert code == 0
        assert Path(name).read_bytes().startswith(magic)
    assert "data.max_tokens = " in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 100
    assert sorted(path.name for path in Path().iterdir()) == ["out.png", "out.svg", "rows.jsonl"]
    for name, told in (("out.pdf", "ends with .png or .svg"), ("no/out.png", "there is no folder no")):
        code, _, err = data("lengths", source, "--plot", name)
        assert (code, told in err) == (2, True)
    code, _, err = data("lengths", source, "--model", "builtin:tiny-qwen")
    assert (code, "did you mean 'builtin:tiny-qwen3'?" in err) == (2, True)


def test_duplicates_of_the_real_rows_are_those_of_the_inventory(data: Data, v2: str, v5: str) -> None:
    code, out, _ = data("duplicates", v2, "--json", "--seed", "1")
    found = json.loads(out)
    assert code == 0
    assert (found["rows"], found["prompts"], found["repeated_prompts"]) == (3933, 1825, 2108)
    assert found["leak"]["validation_rows"] == 197
    assert abs(found["leak"]["expected_share"] - found["leak"]["share_of_seed"]) < 0.1
    assert 0.5 < found["leak"]["expected_share"] < 0.7
    code, out, _ = data("duplicates", v5, v2)
    assert code == 0
    assert "no prompt is in two of the sources" in out
    assert "0.0 % where the split keeps a prompt's rows together" in out


def test_duplicates_between_sources_are_told(data: Data) -> None:
    one, two = _write("one.jsonl", ROWS), _write("two.jsonl", [*ROWS[2:], _row("other", "talk")], more="{\n")
    code, out, _ = data("duplicates", one, two)
    assert code == 1
    assert "3 prompts are in both one.jsonl and two.jsonl" in out
    assert "1 rows or files could not be read:\ntwo.jsonl:5: not JSON: " in out
    assert "[red]xml[/red] please" in out
    code, _, err = data("duplicates", one, "--validation-share", "1.5")
    assert (code, "--validation-share 1.5: expected a share between 0 and 1" in err) == (2, True)


def test_help_of_the_data_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tanren.common.cli import _main\n"
        "for command in ('inspect', 'validate', 'lengths', 'duplicates'):\n"
        "    try: _main(['data', command, '--help'])\n    except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'numpy', 'matplotlib', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
