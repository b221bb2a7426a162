"""What the report shows of the pack's metrics, and that a model's text stays text there."""

from __future__ import annotations

from tanren.common.task_packs import load_pack
from tanren.evaluate.evaluated import Evaluated
from tanren.evaluate.measures_section import measures_section
from tanren.evaluate.predictions import Prediction
from tanren.evaluate.report import page_templates
from tanren.evaluate.scoring import Judged

from .articles import ANA, NOTHING, answer, gold, row


def test_metrics_and_mistakes_stand_in_the_report_and_text_of_a_model_is_escaped() -> None:
    pack = load_pack("extraction")
    item = row(gold(ANA))
    hostile = answer(gold(ANA | {"name": "<script>alert(1)</script>"}))
    candidates = {}
    for name, text in (("base", answer(NOTHING)), ("trained", hostile)):
        written = Prediction("r", text, "0" * 16, "stop", 3, 2)
        candidates[name] = [Judged(item, written, pack.parse(text, item))] * 6
    evaluated = Evaluated(pack, [item] * 6, candidates, ("base", "trained"))
    page = page_templates().get_template("measures.html.j2").render(reference="base", **measures_section(evaluated))
    assert "<td>0.000 [0.000-0.390]</td>" in page  # of 6 by Wilson: z^2 / (6 + z^2)
    assert '<th scope="row">offender_name_set_f1</th><td>0.000 [0.000-0.390]</td><td>0.000</td>' in page
    assert '<th scope="row">miss</th><td>48</td><td>0</td>' in page
    assert '<th scope="row">hallucination</th><td>0</td><td>6</td>' in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
