"""Chat templates of candidates: that of the training, and one for all, unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tanren.common.errors import UserError
from tanren.evaluate.roster import Candidate


def check_templates(candidates: Sequence[Candidate], hashes: Mapping[str, str], *, allowed: bool) -> None:
    """Refuse a candidate that was trained with another chat template than its tokenizer has, and candidates that differ in it.

    `hashes`: that of each candidate's tokenizer, by its name. Neither is refused where it is `allowed`.
    """
    if allowed:
        return
    for one in candidates:
        if one.template not in (None, hashes[one.name]):
            raise UserError(
                f"candidate {one.name} was trained with the chat template {one.template}, its tokenizer has {hashes[one.name]}: its prompts "
                "would differ from training; name the one that it had with model.chat_template, or evaluate all the same with "
                "--allow-other-template"
            )
    if len(set(hashes.values())) > 1:
        told = ", ".join(f"{name}: {template}" for name, template in hashes.items())
        raise UserError(
            f"the candidates have different chat templates ({told}), so they would answer different prompts; give all the same with "
            "model.chat_template, or compare them all the same with --allow-other-template"
        )
