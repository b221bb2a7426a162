"""Rows: gold values (read back by other readers), splits, determinism, prefixes, balance and options."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import ValidationError

from tanren.common.errors import UserError
from tanren.common.task_contract import Row, Split
from tasks.structured import generate, task
from tasks.structured.families import FAMILIES
from tasks.structured.formats import FORMAT_NAMES
from tasks.structured.shapes import Many
from tasks.structured.values import natural

_ROOT = Path(__file__).parents[3]
_SIZES = ("tiny", "small", "medium", "large")
_STRINGS = ("plain", "mixed", "awkward")
_TINY: dict[str, Any] = {"size": "tiny", "strings": "plain", "kinds": ("conversion",)}


@cache
def _rows(split: Split, size: str, strings: str, count: int = 300) -> list[Row]:
    options = task.Options.model_validate(
        {"size": size, "strings": strings, "train_rows": count, "heldout_rows": count}
    )
    return task.rows(split, options)


# --- gold values, read back without the pack's parsers ---


def _natural(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if value is None else value


def _xml_value(element: ET.Element, scalar: Callable[[str], Any]) -> Any:
    children = list(element)
    if not children:
        return scalar(element.text or "")
    if all(child.tag == "item" for child in children):
        return [_xml_value(child, scalar) for child in children]
    return {child.tag: _xml_value(child, scalar) for child in children}


def _read(name: str, text: str, scalar: Callable[[str], Any] = _natural) -> Any:
    """Read a text; `scalar` makes a value of the texts that XML and CSV carry."""
    match name:
        case "json":
            return json.loads(text)
        case "yaml":
            return yaml.safe_load(text)
        case "toml":
            return tomllib.loads(text)
        case "xml":
            root = ET.fromstring(text)
            return {root.tag: _xml_value(root, scalar)}
    return [{key: scalar(cell) for key, cell in record.items()} for record in csv.DictReader(io.StringIO(text))]


def _read_fields(lines: str) -> Any:
    """Build the document from lines of `path = value`, a line break within a value being escaped by JSON."""
    document: dict[str, Any] = {}
    for line in lines.split("\n"):
        path, _, value = line.partition(" = ")
        steps = re.findall(r"[^.\[\]]+", path)
        place: Any = document
        for i, step in enumerate(steps):
            key: Any = int(step) if isinstance(place, list) else step
            if isinstance(place, list) and key == len(place):
                place.append(None)
            if i == len(steps) - 1:
                place[key] = json.loads(value)
            else:
                empty: Any = [] if steps[i + 1].isdigit() else {}
                if isinstance(place, list):
                    place[key] = empty if place[key] is None else place[key]
                place = place[key] if isinstance(place, list) else place.setdefault(key, empty)
    return document


def _as_document(row: Row, name: str, value: Any) -> Any:
    """Strip what a format adds: the root of XML; CSV gets back its key from the prompt or the gold value."""
    if row.metadata["table"]:
        return value if name == "csv" or isinstance(value, list) else next(iter(value.values()))
    return next(iter(value.values())) if name == "xml" else value


@pytest.mark.parametrize("strings", _STRINGS)
@pytest.mark.parametrize("size", _SIZES)
def test_the_source_text_holds_exactly_the_gold_value(size: str, strings: str) -> None:
    for row in _rows("train", size, strings):
        text = row.prompt[-1].content.partition(":\n")[2]
        source = row.metadata["source"]
        if source == "text":
            continue
        read = _read_fields(text) if source == "fields" else _read(source, text)
        gold = _as_document(row, row.group, row.expected)
        assert _as_document(row, source, read) == gold, row.id
        assert repr(_sorted(_as_document(row, source, read))) == repr(_sorted(gold)), row.id


def _sorted(value: Any) -> Any:
    """Order the keys: TOML puts its tables last. With repr, 1, 1.0 and True then differ."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("strings", _STRINGS)
@pytest.mark.parametrize("size", _SIZES)
def test_the_reference_is_judged_correct_and_read_alike_by_other_readers(size: str, strings: str) -> None:
    for row in (*_rows("train", size, strings), *_rows("heldout", size, strings)):
        parsed = task.parse(row.reference, row)
        assert parsed.correct, (row.id, parsed.error)
        assert task.parse(f"Here it is:\n```{row.group}\n{row.reference}\n```", row).correct, row.id
        expected = _as_text(row.expected) if row.group in ("xml", "csv") else row.expected
        assert _read(row.group, row.reference, scalar=str) == expected, row.id


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_text(inner) for inner in value]
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("strings", ["mixed", "awkward"])
def test_awkward_strings_do_occur(strings: str) -> None:
    text = "".join(row.reference for row in _rows("train", "large", strings))
    for sign in ("東京", "🚀", "&", ": ", "# ", "007", "null", '\\"', "\n"):
        assert sign in text


@pytest.mark.parametrize("size", _SIZES)
def test_plain_documents_are_ascii(size: str) -> None:
    assert all(row.reference.isascii() for row in _rows("train", size, "plain"))


# --- extraction ---


def test_tiny_prose_states_every_field_once_and_the_keys() -> None:
    options = task.Options(size="tiny", strings="plain", kinds=("extraction",), formats=("json",), train_rows=300)
    for row in task.rows("train", options):
        asked, _, told = row.prompt[-1].content.partition(":\n")
        keys = asked.partition(", keys ")[2].split(", ")
        assert keys == list(row.expected)
        stated = re.split(r", | and ", told.rpartition(" has ")[2].removesuffix("."))
        read = {}
        for key, words in zip(keys, stated, strict=True):
            label, value = key.replace("_", " "), words
            assert value.startswith(f"{label} ")
            read[key] = _natural(value.removeprefix(f"{label} "))  # JSON reads the quotation marks of "X5" too
        assert read == row.expected


@pytest.mark.parametrize("size", ["medium", "large"])
def test_prose_holds_every_value(size: str) -> None:
    options = task.Options.model_validate(
        {"size": size, "strings": "awkward", "kinds": ("extraction",), "train_rows": 200}
    )
    for row in task.rows("train", options):
        prompt = row.prompt[-1].content
        for leaf in _leaves(row.expected):
            assert ("null" if leaf is None else leaf if isinstance(leaf, str) else json.dumps(leaf)) in prompt


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


def test_a_prompt_for_xml_names_the_root_and_how_lists_are_written() -> None:
    for row in _rows("train", "medium", "mixed"):
        if row.group == "xml":
            prompt = row.prompt[-1].content
            assert f"with root <{next(iter(row.expected))}>" in prompt
            assert ("<item>" in prompt.partition(":\n")[0]) == ("<item>" in row.reference)


def test_some_documents_have_camel_case_keys_and_prose_tells_them_as_words() -> None:
    options = task.Options(kinds=("extraction",), formats=("json",), train_rows=400)
    rows = [row for row in task.rows("train", options) if any(key != key.lower() for key in row.expected)]
    assert 5 < len(rows) < 100
    for row in rows:
        key = next(key for key in row.expected if key != key.lower())
        asked, _, told = row.prompt[-1].content.partition(":\n")
        assert key in asked
        assert re.sub("([A-Z])", lambda match: f" {match[0].lower()}", key) in told


# --- what comes where ---


def test_every_ordered_pair_of_formats_is_converted() -> None:
    rows = task.rows("train", task.Options(kinds=("conversion",), train_rows=200, size="small"))
    pairs = Counter((row.metadata["source"], row.group) for row in rows)
    assert pairs == dict.fromkeys(permutations(FORMAT_NAMES, 2), 10)


def test_every_kind_is_asked_in_every_format_equally_often() -> None:
    counts = Counter((row.metadata["kind"], row.group) for row in _rows("train", "small", "mixed"))
    assert len(counts) == 15
    assert set(counts.values()) == {20}


@pytest.mark.parametrize("formats", [("json",), ("csv", "xml"), FORMAT_NAMES])
def test_every_prefix_is_balanced_over_the_formats(formats: tuple[Any, ...]) -> None:
    groups = [row.group for row in task.rows("train", task.Options(formats=formats, train_rows=61, **_TINY))]
    for end in range(1, len(groups) + 1):
        counts = [Counter(groups[:end])[name] for name in formats]
        assert max(counts) - min(counts) <= 1


def test_rows_follow_the_contract() -> None:
    for split in ("train", "heldout"):
        rows = _rows(split, "small", "mixed")
        for index, row in enumerate(rows):
            assert re.fullmatch(rf"{split}-\w+-to-{row.group}-{index:06d}-[0-9a-f]{{8}}", row.id)
            assert [message.role for message in row.prompt] == ["system", "user"]
            assert row.expected is not None
            assert set(row.metadata) >= {"kind", "source", "target", "family", "size", "schema", "document"}
            json.dumps(dict(row.metadata))
        assert len({row.id for row in rows}) == len(rows)


def test_the_system_message_can_be_left_out() -> None:
    row = task.rows("train", task.Options(system="", train_rows=1))[0]
    assert [message.role for message in row.prompt] == ["user"]


# --- splits ---


def _paths(value: Any, prefix: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path for key, inner in value.items() for path in _paths(inner, f"{prefix}.{key}")}
    if isinstance(value, list):
        return {path for inner in value for path in _paths(inner, f"{prefix}[]")} or {f"{prefix}[]"}
    return {prefix}


@pytest.mark.parametrize(("size", "strings"), [("tiny", "plain"), ("small", "awkward"), ("medium", "mixed")])
def test_splits_share_no_document_no_schema_and_no_prompt(size: str, strings: str) -> None:
    train, heldout = _rows("train", size, strings, 2000), _rows("heldout", size, strings, 2000)
    assert len(train) == len(heldout) == 2000
    prompts = [row.prompt[-1].content for row in (*train, *heldout)]
    assert len(set(prompts)) == len(prompts)
    for make in (
        lambda row: json.dumps(_as_document(row, row.group, row.expected), sort_keys=True),
        lambda row: frozenset(_paths(_as_document(row, row.group, row.expected))),
        lambda row: row.metadata["schema"],
        lambda row: row.metadata["document"],
    ):
        assert not {make(row) for row in train} & {make(row) for row in heldout}


def test_splits_share_nothing_across_seeds_and_sizes() -> None:
    train = {row.metadata["schema"] for size in _SIZES for row in _rows("train", size, "mixed")}
    other = task.rows("heldout", task.Options(seed=9, size="tiny", heldout_rows=500))
    assert not train & {row.metadata["schema"] for row in other}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_alone_fills_both_splits_at_every_size(family: str) -> None:
    for size in _SIZES:
        options = task.Options.model_validate(
            {"families": (family,), "size": size, "train_rows": 40, "heldout_rows": 40}
        )
        for split in ("train", "heldout"):
            assert {row.metadata["family"] for row in task.rows(split, options)} == {family}


# --- determinism ---

_DIGEST = """
import hashlib
from tasks.structured import task
options = task.Options(train_rows=150, heldout_rows=150, strings="awkward")
rows = task.rows("train", options) + task.rows("heldout", options)
print(hashlib.sha256(repr(rows).encode()).hexdigest())
"""


def _run(program: str, hash_seed: str) -> str:
    paths = [str(_ROOT), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_rows_are_the_same_in_every_process() -> None:
    assert _run(_DIGEST, "1") == _run(_DIGEST, "2")


@pytest.mark.parametrize("size", ["tiny", "medium"])
def test_more_rows_begin_with_the_same_rows(size: Literal["tiny", "medium"]) -> None:
    for split in ("train", "heldout"):
        few = task.rows(split, task.Options(size=size, train_rows=70, heldout_rows=70))
        many = task.rows(split, task.Options(size=size, train_rows=300, heldout_rows=500))
        assert few == many[: len(few)]


def test_another_seed_gives_other_rows() -> None:
    one, two = (task.rows("train", task.Options(seed=seed, train_rows=100)) for seed in (1, 2))
    assert not {row.prompt[-1].content for row in one} & {row.prompt[-1].content for row in two}


# --- options, size and speed ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": ("json",), "formats": ("json", "xml")}, "sources: found json alone"),
        ({"families": ("orders",)}, "families: found .'orders'."),
        ({"families": ()}, "families: found none"),
        ({"formats": ("json", "json")}, "formats: found"),
        ({"formats": ()}, "formats"),
        ({"rows": 5}, "rows"),
        ({"train_rows": -1}, "train_rows"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        task.Options.model_validate(options)


def test_one_source_is_enough_where_its_own_format_is_not_asked_for() -> None:
    rows = task.rows("train", task.Options(sources=("csv",), formats=("json", "xml"), train_rows=10, **_TINY))
    assert {row.metadata["source"] for row in rows} == {"csv"}


def test_running_out_of_documents_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_ATTEMPTS", 2)  # a family runs out after very many rows
    options = task.Options(families=("sensor",), formats=("csv",), heldout_rows=1000, **_TINY)
    with pytest.raises(UserError, match=r"row \d+ of heldout.*families sensor; ask for fewer rows"):
        task.rows("heldout", options)


def test_every_option_has_a_default_and_a_docstring() -> None:
    source = (_ROOT / "tasks/structured/options.py").read_text()
    for name, field in task.Options.model_fields.items():
        assert not field.is_required()
        assert re.search(rf'^    {name}: .*\n    """', source, re.MULTILINE), name


def test_no_family_uses_the_key_that_xml_keeps_for_lists() -> None:
    def keys(spec: Any) -> list[str]:
        inner: Any = spec.of if isinstance(spec, Many) else spec
        return [key for name in inner for key in (name, *keys(inner[name]))] if isinstance(inner, dict) else []

    for family in FAMILIES.values():
        every = [*family.brief, *family.more, *keys(family.parts)]
        assert len(set(every[: len(family.brief) + len(family.more)])) == len(family.brief) + len(family.more)
        for key in every:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", key)
            assert key != "item"
            assert isinstance(yaml.safe_load(key), str), f"{family.name}.{key} would need quotes in YAML"
            assert natural(key) == key
    assert len(FAMILIES) >= 14


def test_tiny_rows_are_short() -> None:
    for row in _rows("train", "tiny", "plain", 2000):
        assert len(row.reference) <= 150
        assert len(row.prompt[-1].content) <= 230


def test_a_thousand_tiny_rows_can_be_told_apart() -> None:
    assert len(task.rows("train", task.Options(seed=5, train_rows=1000, **_TINY))) == 1000


def test_importing_the_pack_brings_no_heavy_library() -> None:
    program = (
        "import sys\nfrom tasks.structured import task\nprint({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    )
    assert _run(program, "0") == "set()"


def test_the_folder_loads_as_a_package_of_any_name() -> None:
    folder = _ROOT / "tasks/structured"
    name = "pack_under_another_name"
    specification = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert specification is not None
    sys.modules[name] = importlib.util.module_from_spec(specification)
    try:
        loaded = importlib.import_module(f"{name}.task")
        assert len(loaded.rows("train", loaded.Options(train_rows=5))) == 5
    finally:
        for module in [key for key in sys.modules if key.partition(".")[0] == name]:
            del sys.modules[module]


def test_the_task_file_names_recipes_that_are_there_and_groups_by_format() -> None:
    described = tomllib.loads((_ROOT / "tasks/structured/task.toml").read_text())
    assert described["name"] == "structured"
    assert described["group"] == "format"
    assert described["recipes"]
    assert all((_ROOT / "tasks/structured" / recipe).is_file() for recipe in described["recipes"].values())
    rows = task.rows("heldout", task.Options(heldout_rows=10))
    assert {row.group for row in rows} == set(FORMAT_NAMES)
