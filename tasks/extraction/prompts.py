"""The instruction, in the language of the article: complete in the sense that one object alone is the right answer."""

from __future__ import annotations

from collections.abc import Sequence

from .options import Language

_EN = {
    "name": "name",
    "is_real": "is_real (true; false for somebody in fiction)",
    "is_offender": "is_offender (true)",
    "age": "age (a number)",
    "position": "position",
    "affiliation": "affiliation (where they work)",
    "address": "address",
    "category": 'category ("法令違反")',
    "act": "act (the offence)",
}
_JA = {
    "name": "name(敬称や「容疑者」を除く)",
    "is_real": "is_real(実在の人物ならtrue)",
    "is_offender": "is_offender(true)",
    "age": "age(数字)",
    "position": "position(職業・役職)",
    "affiliation": "affiliation(勤務先)",
    "address": "address(住所)",
    "category": "category(「法令違反」)",
    "act": "act(罪名)",
}


def build_prompt(language: Language, article: str, keys: Sequence[str]) -> str:
    """Return the instruction, which names the keys of a person, and the article."""
    if language == "ja":
        return (
            '次の記事から、違法行為をしたとされる人物を抽出し、キー"persons"、"occured_locations"、"police_departments"を持つ'
            f"JSONオブジェクトを一つだけ返してください。personsの各人物のキー:{'、'.join(_JA[key] for key in keys)}。"
            "人物は記事に出る順に、語句は記事のとおりに書き、記事にない項目は空文字列とします。occured_locationsは現場、"
            "police_departmentsは捜査する警察署です。該当する人物がいなければ三つとも空のリストにします。\n\n" + article
        )
    return (
        'Extract from the article who is said to have committed an offence, as one JSON object with the keys "persons", '
        f'"occured_locations" (where it happened) and "police_departments" (who investigates). Each person has the keys '
        f'{", ".join(_EN[key] for key in keys)}; in the order of the article, in its words, "" where it does not say. If there '
        "is no such person, all three lists are empty.\n\n" + article
    )
