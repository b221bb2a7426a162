"""Random and mutated answers, judged and scored in three modes: nothing may crash, take over 50 ms, or need memory without bound.

    python benchmarks/scoring/fuzz.py benchmarks/scoring/fuzz.json [--count 20000] [--seed 0] [--formats json yaml]

For each format: documents of the task pack and of hostile kinds (deep nesting, expanding entities and aliases, huge numbers, NULs),
whole, spliced, cut, repeated and with signs thrown in. CPU time counts; what took a quarter of that is timed again, best of three, because a collection
of garbage or a neighbour is no hang. Exit code 1 where a bound is broken, with the text.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tanren.common.task_contract import Row
from tasks.structured.formats import FORMATS
from tasks.structured.task import Options, parse, rows, score_modes

MAX_SECONDS = 0.05
MAX_GROWTH_MIB = 256
_SIGNS = (
    *"[]{}<>/:,=\"'\\#&*!|-?.%@`\n\r\t \0~+e0123456789",
    "é",
    "日",
    "\ud800",
    "\ufeff",
    "\u2028",
    "```",
    "]]>",
    "---\n",
)


def main() -> int:
    """Fuzz and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20_000, help="answers of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="*", choices=list(FORMATS), default=list(FORMATS))
    arguments = parser.parse_args()
    found = {name: fuzz(name, arguments.count, arguments.seed) for name in arguments.formats}
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    broken = any(values["slow"] or values["memory_growth_mib"] > MAX_GROWTH_MIB for values in found.values())
    return int(broken)


def fuzz(name: str, count: int, seed: int) -> dict[str, Any]:
    """Judge `count` answers in one format: how many were valid, the slowest in ms of CPU, the growth of the peak of memory in MiB."""
    options = Options.model_validate({"formats": [name], "size": "medium", "heldout_rows": 60, "strings": "awkward"})
    asked = rows("heldout", options)
    row = asked[0]
    seconds_of(row, row.reference)
    before = peak_mib()
    slowest, slow, valid = 0.0, [], 0
    for text in answers(name, [one.reference for one in asked], count, seed):
        seconds, was_valid = seconds_of(row, text)
        if seconds > MAX_SECONDS / 4:
            seconds = min(seconds_of(row, text)[0] for _ in range(3))
        if seconds > MAX_SECONDS:
            slow.append({"ms": round(1000 * seconds), "characters": len(text), "text": text[:300]})
        slowest, valid = max(slowest, seconds), valid + was_valid
    return {
        "answers": count,
        "lenient_valid": valid,
        "slowest_ms": round(1000 * slowest, 1),
        "memory_growth_mib": round(peak_mib() - before),
        "slow": slow,
    }


def seconds_of(row: Row, text: str) -> tuple[float, int]:
    """Return the CPU seconds of rewarding and scoring one answer, and whether it is leniently valid."""
    begun = time.process_time()
    parse(text, row)
    modes = score_modes([text], [row])
    return time.process_time() - begun, modes["lenient"]["valid"]


def answers(name: str, references: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Yield answers: a tenth hostile as it is, the rest mutated or random; the same for the same seed."""
    drawn = random.Random(f"{name}/{seed}")  # noqa: S311 - no secret is drawn
    hostile = hostile_texts(name)
    for number in range(count):
        if number % 10 == 0:
            yield hostile[number // 10 % len(hostile)]
        elif number % 10 == 1:
            yield "".join(drawn.choice(_SIGNS) for _ in range(drawn.randint(1, 200)))
        else:
            source = drawn.choice(hostile)[:2000] if number % 10 == 2 else drawn.choice(references)
            yield mutated(drawn, source, drawn.choice(references))


def mutated(drawn: random.Random, text: str, other: str) -> str:
    """Return a text with a few things done to it."""
    for _ in range(drawn.randint(1, 5)):
        at = drawn.randrange(len(text) + 1)
        match drawn.randrange(7):
            case 0:
                text = text[:at] + drawn.choice(_SIGNS) + text[at:]
            case 1:
                text = text[:at] + text[at + drawn.randint(1, 20) :]
            case 2:
                text = text[:at] + other[drawn.randrange(len(other)) :]
            case 3:
                text = text[:at] + text[max(0, at - drawn.randint(1, 40)) : at] * drawn.choice((2, 30, 400)) + text[at:]
            case 4:
                text = text[:at]
            case 5:
                text = f"Here it is:\n```{drawn.choice(list(FORMATS))}\n{text}" + drawn.choice(
                    ("", "\n```", "\n```\nDone.")
                )
            case 6:
                text = (
                    text[:at]
                    + drawn.choice(("1" * 5000, "1e999", "-0", "NaN", "0x" + "f" * 999, ".inf", "null"))
                    + text[at:]
                )
    return text


def hostile_texts(name: str) -> list[str]:
    """Return texts that have broken parsers, for every format and for one."""
    general = ["", "\0", "\ufeff", "9" * 100_000, "```" * 20_000, "\\" * 60_000, '"' * 60_000, "a" * 2_000_000]
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    merges = "a: &a {k: v}\n" + "".join(
        f"b{i}: &{'b' * (i + 1)} {{<<: [{f'*{(chr(98) * i) or chr(97)}, ' * 9}]}}\n" for i in range(30)
    )
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "lol"}">' for i in range(10))
    own = {
        "json": ["[" * 60_000, '{"a":' * 12_000, "[" + "1" * 60_000 + "]", "[" + "[]," * 20_000 + "1]", '{"a":1,' * 8000, "[1e400]",
                 "{" + ",".join(f'"k{i}": {i}' for i in range(4000)) + "}", '["' + "\\u0041" * 10_000 + '"]', "[-" * 30_000],
        "yaml": [laughs, merges, "- " * 30_000, "? " * 30_000, "\n".join(" " * i + "a:" for i in range(350)), "[" * 60_000,
                 "{a: " * 15_000, "a: 1" + ":1" * 30_000, "&a " * 20_000, "!!binary " + "A" * 60_000, "!!python/object/apply:os.system [x]",
                 "a: !!timestamp x", "- - - 1\t" * 700, "a: |\n" + " x\n" * 15_000, "'" * 6000, "[a, " * 1500, "\t? a\n" * 1000,
                 "2024-02-30", "*a " * 2000, "%YAML 1.1\n---\n" * 400, "a: [" + "x?, " * 1400 + "]"],
        "toml": ["a." * 8_000 + "a = 1", "[" * 16_000, "x = " + "{a = " * 3_000, "a = " + "1" * 16_000, "a = 0x" + "f" * 16_000,
                 "[[a]]\n" * 2500, 'a = """' + '"' * 15_000, "a = [" + "[]," * 5000 + "]", "\n".join(f"{'.'.join('a' * 60)}.k{i} = 1" for i in range(120)),
                 "\n".join(f"k{i} = {i}" for i in range(1500)), "a = nan", "a = 9999-99-99", '"a".' * 4_000 + "a = 1"],
        "xml": [f"<!DOCTYPE a [{entities}]><a>&e9;</a>", "<a>" * 20_000, '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>',
                "<a " + " ".join(f'a{i}="1"' for i in range(6000)) + "/>", "<a>" + "<b/>" * 15_000 + "</a>", "<a>" + "&#65;" * 12_000 + "</a>",
                "<a>" + "x&amp;" * 10_000 + "</a>", "<!--" * 15_000, "<![CDATA[" * 7000, "<?x " * 15_000, "&lt;a>" * 10_000,
                '<a xmlns:x="u">' + '<x:b xmlns:x="v"/>' * 3000 + "</a>"],
        "csv": ["," * 60_000, "a,b\n" + "1,2\n" * 15_000, 'a,b\n"' + "x" * 60_000, '"' * 60_001, "a\r" * 30_000, "a,b\n1,\0", ",\n" * 30_000],
    }  # fmt: skip
    return general + own[name]


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


if __name__ == "__main__":
    sys.exit(main())
