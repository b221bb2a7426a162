"""Files as sources: every row of every kind of file is read, and what cannot be is told with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.data import Fault, Source, _json_rows, read_rows, scan
from tanren.common.errors import UserError
from tanren.common.task_contract import Row

Make = Callable[[str, bytes], Path]
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROW = json.dumps({"messages": TURNS})


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def _scan(path: Path, **settings: Any) -> tuple[list[Row], list[Fault]]:
    found = list(scan(Source(str(path), **settings)))
    return [one for one in found if isinstance(one, Row)], [one for one in found if isinstance(one, Fault)]


def _parquet(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, **settings)
    return path


def test_a_row_reads_the_same_from_every_kind_of_file(tmp_path: Path, make: Make) -> None:
    rows = [
        {"instruction": f"add\n{n} and 1", "input": "", "output": f'"{n + 1}",\u2028', "id": f"r{n}"}
        for n in range(600)
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["instruction", "input", "output", "id"])
    writer.writeheader()
    writer.writerows(rows)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    paths = [
        make("rows.jsonl", lines),
        make("crlf.ndjson", b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n")),
        make("lines.json", lines),
        make("list.json", b"\xef\xbb\xbf \n" + json.dumps(rows, indent=1).encode()),
        make("rows.csv", b"\xef\xbb\xbf" + text.getvalue().encode()),
        make("rows.jsonl.gz", gzip.compress(lines)),
        make("rows.json.gz", gzip.compress(json.dumps(rows).encode())),
        make("ROWS.CSV.GZ", gzip.compress(text.getvalue().encode())),
        _parquet(tmp_path / "rows.parquet", rows, row_group_size=77),
    ]
    for path in paths:
        read = list(read_rows(Source(str(path))))
        assert [(row.prompt[0].content, row.reference, dict(row.metadata)) for row in read] == [
            (row["instruction"], row["output"], {"id": row["id"]}) for row in rows
        ], path.name
        assert [row.id for row in read] == [f"{path.name}:{n}" for n in range(1, 601)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    values=st.lists(VALUES, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_a_list_is_read_the_same_whatever_piece_of_it_is_in_memory(
    values: list[Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json_rows, "CHUNK", chunk)
        found = list(_json_rows.read_json(io.BytesIO(text), "f", line_is_row=False))
    assert [one.value for one in found if not isinstance(one, Fault)] == values
    assert not any(isinstance(one, Fault) for one in found)


@given(cut=st.integers(0, 400), chunk=st.integers(1, 40))
def test_a_list_that_ends_too_early_gives_its_whole_rows_and_a_fault(cut: int, chunk: int) -> None:
    values = [{"a": 'é\\"{[', "b": [1.5, None, True]}, {"c": {}}, "x", {"d": "\u2028"}] * 2
    text = json.dumps(values, indent=1, ensure_ascii=False).encode()
    cut = min(cut, len(text) - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json_rows, "CHUNK", chunk)
        found = list(_json_rows.read_json(io.BytesIO(text[:cut]), "f", line_is_row=False))
    if cut == 0:
        assert found == []
        return
    *rows, fault = found
    assert isinstance(fault, Fault)
    assert fault.rows == 0
    assert [row.value for row in rows if not isinstance(row, Fault)] == values[: len(rows)]


@pytest.mark.parametrize(
    ("name", "data", "places", "told"),
    [
        ("a.jsonl", f"{ROW}\n{ROW}\n{ROW[:-5]}".encode(), [":3"], "not JSON: "),
        ("a.jsonl", f"{ROW}\n".encode() + b'{"messages": "\xe3\x81"}\n' + ROW.encode(), [":2"], "not UTF-8 text: "),
        ("a.jsonl", ROW.encode("utf-16"), [":1"], "not UTF-8 text: invalid start byte at byte 1 of the line; it looks like"),
        ("a.jsonl", b'{"messages": "a\0"}\n', [":1"], "a NUL character at column 16"),
        ("a.jsonl", b"\0\0\0\0", [":1"], "a NUL character at column 1"),
        ("a.jsonl", b'{"a": 1, "messages": [], "a": 2}', [":1"], "the key 'a' occurs twice in one object"),
        ("a.jsonl", b'{"messages": [{"role": "user", "role": "x"}]}', [":1"], "the key 'role' occurs twice"),
        ("a.jsonl", f'{ROW[:-1]}, "score": NaN}}\n{ROW}'.encode(), [":1"], "found NaN, which JSON does not have"),
        ("a.jsonl", ROW.encode() + b" " + ROW.encode(), [":1"], "not JSON: Extra data at column"),
        ("a.jsonl", b"[" * 100_000, [":1"], "JSON that cannot be read: nested too deep"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", [":1"], "JSON that cannot be read: Exceeds the limit (4300 digits)"),
        ("a.jsonl", b"PAR1....", [""], "its first bytes say that it is parquet: rename it"),
        ("a.jsonl", gzip.compress(ROW.encode()), [""], "compressed (gzip): rename it, so that its name ends with .gz"),
        ("a.jsonl.gz", ROW.encode(), [""], "not compressed (gzip): its first bytes are b'{\"me'"),
        ("a.jsonl.gz", gzip.compress(ROW.encode() * 9)[:-12], [""], "cannot be read to its end: "),
        ("a.json", json.dumps({"rows": TURNS}, indent=1).encode(), [":1"], "expected a list of rows, or one row a line"),
        ("a.json", f"[{ROW},\n{ROW}".encode(), [":2"], "the file ends before its list of rows does"),
        ("a.json", f"[{ROW},\n{ROW[:-9]} {ROW}]".encode(), [":2"], "not JSON: "),
        ("a.json", f"[{ROW}\n{ROW}]".encode(), [":2"], "not JSON: found '{', expected ','"),
        ("a.json", f"[{ROW},\n]".encode(), [":2"], "a comma behind the last row"),
        ("a.json", f"[{ROW}]\n[]".encode(), [":2"], "more text behind the list of rows"),
        ("a.json", f'[{ROW},\n{{"a": 1, "a": 2}},\n{ROW}]'.encode(), [": row 2 (line 2)"], "the key 'a' occurs twice"),
        ("a.json", f"[{ROW},\n".encode() + b'{"a": "\xff"},' + f"{ROW}]".encode(), [": row 2 (line 2)"], "not UTF-8 text"),
        ("a.json", f"[{ROW}, 12, {ROW}, null]".encode(), [": row 2 (line 1)", ": row 4 (line 1)"], "expected an object"),
        ("a.csv", b'prompt,completion\nq,a\n"q\n', [":3"], "not CSV: unexpected end of data"),
        ("a.csv", b"prompt,completion\nq,a\nq\nq,a,b\n", [":3", ":4"], "cells, the first line names 2 columns"),
        ("a.csv", b'prompt,completion\n"q\nr",a\nq,\xff\n', [":4"], "not UTF-8 text"),
        ("a.csv", b"prompt,prompt\nq,a\n", [":1"], "names a column twice"),
        ("a.csv", b"prompt,,completion\nq,,a\n", [":1"], "a column without a name"),
        ("a.csv", ROW.encode(), [":1"], "not CSV: it looks like JSON"),
        ("a.csv", b"prompt,completion\nq,\n", [":2"], "completion: the last turn is empty"),
        ("a.csv", b"question;answer\nq;a\n", [":2"], "the keys ['question;answer'], which fit none of the layouts messages (messages)"),
        ("a.parquet", b"PAR1 and no more", [""], "not a parquet file that can be read"),
        ("a.parquet", ROW.encode(), [""], "not parquet: its first bytes are"),
        ("a.json", b"[]", [""], "holds no row"),
        ("a.csv", b"prompt,completion\n", [""], "holds no row"),
        ("a.parquet", b"", [""], "not a parquet file that can be read"),
        ("a.jsonl.gz", b"", [""], "holds no row"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_place(
    make: Make, name: str, data: bytes, places: list[str], told: str
) -> None:
    path = make(name, data)
    rows, faults = _scan(path)
    assert [fault.place for fault in faults] == [f"{path}{place}" for place in places]
    assert all(told in fault.message for fault in faults)
    with pytest.raises(UserError) as caught:
        list(read_rows(Source(str(path))))
    assert told in str(caught.value)
    assert all(row.reference == "a" for row in rows)


def test_rows_around_a_faulty_one_are_read(make: Make) -> None:
    for name, data in (
        ("a.jsonl", f"{ROW}\n{{\n{ROW}\n".encode()),
        ("a.json", f'[{ROW}, {{"b": NaN}}, {ROW}]'.encode()),
        ("a.csv", b"prompt,completion\nq,a\nq\nq,a\n"),
    ):
        rows, faults = _scan(make(name, data))
        assert (len(rows), len(faults), faults[0].rows) == (2, 1, 1), name


def test_a_line_that_is_too_long_is_told_and_the_next_one_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_json_rows, "MAX_ROW_BYTES", 1 << 20)
    long = json.dumps({"messages": [TURNS[0], {"role": "assistant", "content": "a" * (1 << 21)}]})
    rows, (fault,) = _scan(make("a.jsonl", f"{ROW}\n{long}\n{ROW}".encode()))
    assert [row.id for row in rows] == ["a.jsonl:1", "a.jsonl:3"]
    assert "a line of more than 1 MiB" in fault.message
    rows, (fault,) = _scan(make("a.json", f"[{ROW},{long}]".encode()))
    assert len(rows) == 1
    assert "a row of more than 1 MiB" in fault.message


def test_a_row_group_that_is_broken_is_counted_with_its_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} " + os.urandom(64).hex(), "completion": "a"} for n in range(300)]
    path = _parquet(tmp_path / "a.parquet", rows, row_group_size=100, compression="zstd", use_dictionary=False)
    import pyarrow.parquet as pq

    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    read, faults = _scan(path)
    assert len(read) + sum(fault.rows for fault in faults) == 300
    assert {row.id for row in read} >= {f"a.parquet:{n}" for n in (*range(1, 101), *range(201, 301))}
    assert faults[0].place.endswith("rows 101 to 200")


def test_values_out_of_columns_are_pythons_own(tmp_path: Path) -> None:
    import datetime

    rows = [
        {
            "messages": [{**turn, "name": None} for turn in TURNS],
            "day": datetime.date(2026, 1, 2),
            "score": float("nan"),
            "blob": b"x",
            "pack": "p",
            "metadata": {"format": "json", "tags": ["a"]},
        }
    ]
    (row,) = read_rows(Source(str(_parquet(tmp_path / "a.parquet", rows))))
    assert row.metadata == {"day": "2026-01-02", "pack": "p", "format": "json", "tags": ["a"]}
    assert [type(value) for value in row.metadata.values()] == [str, str, str, list]


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([pa.array(["q"]), pa.array(["a"]), pa.array(["b"])], names=["prompt", "completion", "completion"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "the columns ['completion'] occur twice" in _scan(tmp_path / "a.parquet")[1][0].message


def test_a_name_that_means_nothing_is_answered_with_what_is_there(make: Make, tmp_path: Path) -> None:
    make("train.jsonl", ROW.encode())
    make("notes.txt", b"")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, told in (
        (str(tmp_path / "trian.jsonl"), f"did you mean {tmp_path / 'train.jsonl'}?"),
        (str(tmp_path / "x.csv"), f"data files in {tmp_path}: pipe.jsonl, train.jsonl"),
        (str(tmp_path / "no" / "x.csv"), f"there is no folder {tmp_path / 'no'}"),
        (str(tmp_path), f"is a folder, expected a file; name the files in it: {tmp_path / 'pipe.jsonl'}, "),
        (str(tmp_path / "notes.txt"), "expected a name that ends with .jsonl, .ndjson, .json, .csv"),
        (str(tmp_path / "pipe.jsonl"), "is no ordinary file"),
        ("pack:nothing", "unknown task pack 'nothing'"),
    ):
        with pytest.raises(UserError) as caught:
            scan(Source(name))
        assert told in str(caught.value), name


def test_a_file_that_is_named_like_a_dataset_is_a_file() -> None:
    assert Source("some/rows").kind == "hub"
    assert Source.of_file(Path("some/rows")).kind == Source("some/rows.jsonl").kind == "file"
    with pytest.raises(UserError, match=r"no file some/rows \(there is no folder some\)"):
        scan(Source.of_file(Path("some/rows")))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"split": "test"}, "the split 'test' has no effect"),
        ({"revision": "main"}, "the revision 'main' has no effect"),
        ({"layout": "sharegpt"}, "unknown layout 'sharegpt'; expected one of auto, messages, alpaca, segments, prompt-completion"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(make: Make, settings: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        scan(Source(str(make("a.jsonl", ROW.encode())), **settings))


def test_a_task_pack_is_a_source() -> None:
    rows = list(read_rows(Source("pack:structured", split="heldout")))
    assert {row.metadata["format"] for row in rows} == {"json", "yaml", "toml", "xml", "csv"}
    for source, told in (
        (Source("pack:structured", split="test"), "unknown split 'test'; a task pack has train and heldout"),
        (Source("pack:structured", layout="alpaca"), "the layout 'alpaca' has no effect"),
    ):
        with pytest.raises(UserError, match=told):
            scan(source)


def test_a_file_that_may_not_be_read_is_a_fault(make: Make) -> None:
    path = make("a.jsonl", ROW.encode())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in _scan(path)[1][0].message
