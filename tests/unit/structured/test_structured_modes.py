"""Three readings of an answer: lenient, strict, and StructEval-T's own score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tasks.structured.compatible import extract, final_score, path_exists, structeval_score
from tasks.structured.lenient import is_syntax_valid
from tasks.structured.limits import FormatError
from tasks.structured.loading import load
from tasks.structured.modes import score_modes
from tasks.structured.strict import strict_error
from tasks.structured.structeval_tasks import read_tasks, source_of

DATA = Path(__file__).parents[4] / "shared" / "data" / "structeval"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")


def task(name: str, output_type: str, source: str = "", **more: Any) -> Row:
    query = f"Please convert.\\n\\n<code>{source}</code>" if source else "Please output it."
    record = {"task_id": "t", "task_name": name, "query": query, "output_type": output_type, **more}
    return read_tasks([record], "tasks.json")[0]


@pytest.mark.parametrize(
    ("name", "completion", "valid"),
    [
        ("json", '{"a": 1}', True),
        ("json", 'Here:\n```json\n{"a": 1}\n```\n```json\n{\n```', True),  # the first block counts
        ("json", '```json\n{\n```\n```json\n{"a": 1}\n```', False),
        ("json", 'Here: {"a": 1}', False),
        ("json", '```json\n{"a": 1}', False),  # an open fence is no block
        ("json", '{"a": NaN, "a": 3}', True),
        ("json", "3", True),
        ("json", "", False),
        ("yaml", "just a sentence", True),
        ("yaml", "a: &x [1]\nb: *x\na: 2", True),
        ("yaml", "a: *x", False),
        ("yaml", "a: 2024-02-30", False),  # safe_load fails at the date
        ("yaml", "a: 2024-02-29 25:00:00", False),
        ("yaml", "a:\tb: c", False),
        ("yaml", "", True),
        ("toml", "a = nan", True),
        ("toml", "a = 1\na = 2", False),
        ("toml", 'a = { "b": 1 }', False),
        ("xml", "<a><b/><b/></a>", True),
        ("xml", "<!DOCTYPE a><a/>", True),
        ("xml", "<!-- <!DOCTYPE a [ --><a>b<!-- x --> c</a>", True),
        ("xml", "<a>&nbsp;</a>", False),
        ("xml", "<a/><b/>", False),
        ("csv", "one line of prose", True),
        ("csv", "a,b\n1", True),
        ("csv", "", False),
    ],
)
def test_lenient_is_the_verdict_of_each_formats_usual_parser(name: str, completion: str, valid: bool) -> None:
    assert is_syntax_valid(completion, name) is valid


@pytest.mark.parametrize(
    "text",
    [
        "a: [x?, y]", "{a: b#c?d}", "- >#", "12:30: =", "a: =\n", "<<: {a: 1}", "<<: 3", "a: 1_000", "? a\n: b", "a:\t1", "a: b\t# c",
        "%YAML 1.2\n---\na: 1", "a: 0b_", "a: !!int x", "a: !x y", "[a]: b", "{a: 1}: b", "a: 2001-12-14t21:59:43.10-05:00",
        "a: 2001-12-14 21:59:43 +25", "a: 1:60", "a\n---\nb", "...", "a: \x85b", "a: '\u2028'", "\ufeffa: 1", "a: b\n\ufeffc: d", "a: 'x", "*a",
    ],
)  # fmt: skip
def test_yaml_is_accepted_and_refused_as_safe_load_does(text: str) -> None:
    try:
        yaml.safe_load(text)
        expected = True
    except Exception:  # noqa: BLE001 - safe_load fails in many ways
        expected = False
    assert is_syntax_valid(text, "yaml") is expected


@pytest.mark.parametrize(
    ("name", "completion"),
    [
        ("JSON", '```json\n{"a": 1}\n```'),
        ("JSON", 'Here: {"a": 1}'),
        ("JSON", '{"a": 1} Done.'),
        ("JSON", '{"a": NaN}'),
        ("JSON", '{"a": 1, "a": 1}'),
        ("JSON", "3"),
        ("YAML", "just a sentence"),
        ("YAML", "a: 1\na: 2"),
        ("YAML", "a: .nan"),
        ("YAML", "```yaml\na: 1\n```"),
        ("TOML", "a = inf"),
        ("TOML", "a = 1\n```"),
        ("XML", "Sure: <a/>"),
        ("XML", '<a b="1" b="2"/>'),
        ("CSV", "a,b\n1"),
        ("CSV", "a,a\n1,2"),
        ("CSV", "Here it is\nwithout a comma"),
        ("CSV", "Here it is:\n\na,b\n1,2"),
        ("CSV", "a,b"),
    ],
)
def test_strict_refuses_fences_prose_bare_values_and_repeated_keys(name: str, completion: str) -> None:
    assert strict_error(completion, task(f"Text to {name}", name), None) is not None


@pytest.mark.parametrize(
    ("source_format", "source", "output_type", "right", "wrong"),
    [
        ("JSON", '{"a": [1, 2.0], "b": null}', "YAML", "b:\na: [1.0, 2]", "b:\na: [2, 1]"),
        ("TOML", "[a]\nd = 2024-01-02", "JSON", '{"a": {"d": "2024-01-02"}}', '{"a": {"d": "2024-01-03"}}'),
        ("XML", "<r><x>1</x><x>2</x></r>", "JSON", '{"r": {"x": [1, "2"]}}', '{"r": {"x": [1]}}'),
        ("XML", "<r><x>1</x><x>2</x></r>", "YAML", "x: [1, 2]", "x: [1, 2]\ny: 1"),
        ("XML", '<r><l><i k="v">t</i></l></r>', "JSON", '{"r": {"l": {"i": {"@k": "v", "#text": "t"}}}}', '{"r": {"l": {"i": "t"}}}'),
        ("XML", "<r><l><i>1</i><i>2</i></l></r>", "JSON", '{"r": {"l": [1, 2]}}', '{"r": {"l": [2, 1]}}'),
        ("JSON", '{"r": {"a b": true, "l": [1, 2]}}', "XML", "<r><a_b>true</a_b><l>1</l><l>2</l></r>", "<r><a_b>true</a_b><l>1</l></r>"),
        ("JSON", '{"a": 1, "l": [{"n": 1}]}', "XML", "<root><a>1</a><l><item><n>1</n></item></l></root>", "<root><a>1</a></root>"),
        ("CSV", "a.b,c[0].d\n1,True\n", "JSON", '[{"a": {"b": 1}, "c": [{"d": true}]}]', '[{"a": {"b": 1}, "c": [{"d": false}]}]'),
        ("CSV", "n,s\n1,\n2,x\n", "YAML", "- {n: 1, s: null}\n- {n: '2', s: x}", "- {n: 1, s: null}"),
        ("CSV", "n,s\n1,y\n2,x\n", "XML", "<t><row><n>1</n><s>y</s></row><row><n>2</n><s>x</s></row></t>", "<t><row><n>1</n><s>y</s></row></t>"),
        ("JSON", '{"t": [{"n": 1, "p": {"q": "x"}}]}', "CSV", "n,p.q\n1,x", "n,p.q\n1,y"),
        ("XML", "<t><r><n>1</n></r><r><n>2</n></r></t>", "CSV", "n,m\n1,\n2,", "n,m\n2,\n1,"),
        ("YAML", "- n: 1.0\n  l: [a, b]", "CSV", "n,l\n1,a;b", "n,l\n1,b;a"),
    ],
)  # fmt: skip
def test_a_conversion_must_hold_the_values_of_its_source(
    source_format: str, source: str, output_type: str, right: str, wrong: str
) -> None:
    row = task(f"{source_format} to {output_type}", output_type, source)
    assert strict_error(right, row, source_of(row)) is None
    error = strict_error(wrong, row, source_of(row))
    assert error is not None
    assert strict_error(wrong, task(f"Text to {output_type}", output_type), None) is None  # only the values are wrong


def test_a_source_that_does_not_parse_leaves_the_syntax_to_judge() -> None:
    row = task("TOML to JSON", "JSON", "a = {b = 1}\n[a.c]\nd = 1")
    assert source_of(row) is None
    counts = score_modes(['{"a": 0}'], [row])["strict"]
    assert (counts["valid"], counts["compared"]) == (1, 0)


def test_the_anchors_of_the_formula_are_reproduced() -> None:
    assert final_score(1, 0.5) == 0.6
    assert structeval_score('{"a": 1}', "json", ["a", "b"]).final_eval_score == 0.6
    assert structeval_score("{", "json", ["a"]).final_eval_score == 0.0


@needs_data
def test_the_scored_examples_of_structeval_are_reproduced() -> None:
    examples = json.loads((DATA / "structeval_t_scored_examples.json").read_text(encoding="utf-8"))
    program, museum = examples["scored"]
    score = structeval_score(museum["generation"], "json", museum["raw_output_metric"])
    assert (score.render_score, score.key_validation_score, score.final_eval_score) == (1, 1.0, 1.0)
    answer = "<code>\nimport json\nprint(json.dumps({}))\n</code>"
    score = structeval_score(answer, "json", program["raw_output_metric"])
    assert (score.render_score, score.key_validation_score, score.final_eval_score) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>\n</think>{}", "{}"),
        ("x <|BEGIN_CODE|>\n{}\n<|END_CODE|> y", "{}"),
        ("<|BEGIN_CODE|>{}", "{}"),
        ("<|BEGIN_CODE|>[]<|END_CODE|>\n```json\n{}\n```", "{}"),  # a fence overrides
        ("```json\n{}", "{}"),
        ("&lt;a/&gt;", "<a/>"),
        (" {} ", "{}"),
    ],
)
def test_structeval_takes_this_as_the_answer(completion: str, answer: str) -> None:
    assert extract(completion) == answer


@pytest.mark.parametrize(
    ("name", "text", "path", "there"),
    [
        ("json", '{"a": {"b": [{"c": null}]}}', "a.b[0].c", True),
        ("json", '{"a": {"b": [{"c": 1}]}}', "a.b[1].c", False),
        ("json", '{"a": [{"x": 1}, {"c": 1}]}', "a.*.c", True),
        ("json", '{"a": [{"x": 1}]}', "a.*.c", False),
        ("json", '{"a": {"*": 1}}', "a.*", False),
        ("json", '{"a.b": {"c d": 1}}', "`a.b`.c d", True),
        ("json", '{"名前": 1}', "名前", True),
        ("json", '{"a": [[1, 2]]}', "a[0][1]", True),
        ("yaml", "a:\n  - b: 1", "a[0].b", True),
        ("toml", "[a]\nb = 1", "a.b", True),
        ("xml", '<r><x id="1"/><y><id>2</id></y></r>', "r.x.@id", True),
        ("xml", '<r><x id="1"/><y><id>2</id></y></r>', "r.y.@id", True),
        ("xml", "<r><x>1</x><x>2</x></r>", "r.x[1]", True),
        ("csv", "id,Name\n1,x", "csv::Name", True),
        ("csv", "id,Name\n1,x", "csv::name", False),
        ("json", "{}", "", False),
    ],
)
def test_a_path_leads_to_what_is_there(name: str, text: str, path: str, there: bool) -> None:
    assert path_exists(load(name, text), path, name) is there


def test_escapes_are_decoded_only_where_the_answer_needs_it() -> None:
    assert structeval_score('{"a": "x\\"y\\\\z"}', "json", ["a"]).final_eval_score == 1.0
    assert structeval_score('{\\n  \\"a\\": \\"日本\\"\\n}', "json", ["a"]).final_eval_score == 1.0


def test_merge_keys_that_double_are_refused() -> None:
    levels = "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}], k{i}: 1}}\n" for i in range(40))
    with pytest.raises(FormatError, match="merge keys"):
        load("yaml", "a0: &a0 {k: 1, l: 2}\n" + levels)


@needs_data
def test_every_public_task_is_read_and_its_own_source_is_right_for_its_own_format() -> None:
    rows = read_tasks(json.loads((DATA / "public_150.json").read_text(encoding="utf-8")), "public_150.json")
    sources = [source_of(row) for row in rows]
    assert sum("source_text" in row.metadata for row in rows) == 110
    assert sum(source is not None for source in sources) == 102  # 5 TOML and 3 CSV documents are broken themselves
    modes = score_modes(["{}"] * 150, rows)
    counts = {title: of["total"] for title, of in modes["lenient"]["by_format"].items()}
    assert counts == {"JSON": 50, "YAML": 35, "TOML": 25, "XML": 20, "CSV": 20}
    # {} is JSON and YAML, and one row of CSV; it is the document of no conversion, and no XML or TOML
    assert modes["lenient"]["valid"] == 105
    assert modes["compatible"]["score"] is None
    assert modes["strict"]["by_format"]["JSON"]["valid"] == sum(
        row.group == "json" and source is None for row, source in zip(rows, sources, strict=True)
    )


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"task_id": "a", "query": "q"}, "task 1: output_type: found None, expected text"),
        ({"task_id": "a", "query": "q", "output_type": "HTML"}, "found 'HTML', expected one of JSON, YAML, TOML, XML, CSV"),
        ("x", "task 1: found str, expected an object"),
    ],
)  # fmt: skip
def test_what_is_no_task_is_refused(record: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_tasks([record], "tasks.json")
    with pytest.raises(UserError, match="the id 'a' is there twice"):
        read_tasks([{"task_id": "a", "query": "q", "output_type": "JSON"}] * 2, "tasks.json")
