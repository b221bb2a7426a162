"""Japanese articles."""

from __future__ import annotations

from .article import Article, Length, Story, beside, draw_case
from .lexicon import Lexicon, Person

_ACCUSED = "{name}被告"  # after the indictment; before it: the suspect
_SUSPECT = "{name}容疑者"
_CHARGED = "{act}の罪に問われているのは{who}。事件は{places}で起き、{police}が捜査してきた。"
_ARRESTS = (
    "{police}は{day}、{places}での{act}の疑いで、{who}を逮捕した。",
    "{day}、{act}の疑いで{who}が{police}に逮捕された。現場は{places}。",
    "{places}で起きた事件で、{police}は{day}、{act}の疑いで{who}を逮捕したと発表した。",
    "{police}は{who}を{act}の疑いで書類送検した。{places}での事件にかかわったとみている。",
)


def tell_case(lexicon: Lexicon, length: Length) -> Article:
    """Write an article with one to three offenders."""
    rng = lexicon.rng
    case = draw_case(lexicon, _day(lexicon))
    opening = rng.choice((*_ARRESTS, _CHARGED))
    style = _ACCUSED if opening == _CHARGED else _SUSPECT
    news = opening.format(
        police=case.police,
        day=case.day,
        act=case.offenders[0].act,
        places="と".join(case.locations),
        who="、".join(_who(one, style) for one in case.offenders[:-1])
        + ("と" if len(case.offenders) > 1 else "")
        + _who(case.offenders[-1], style),
    )
    sentences = [
        lambda: f"調べによると、{case.happened}。",
        lambda: f"通報した{_who(lexicon.person(details=0.5))}は「大きな音がした」と話した。",
        lambda: f"弁護人の{lexicon.person().name}弁護士は取材に応じていない。",
        lambda: f"{lexicon.town()}市の{lexicon.person().name}市長は、捜査員に感謝を述べた。",
        lambda: _other_case(lexicon),
        lambda: f"初公判は{rng.choice(('春', '夏', '秋', '冬'))}に開かれる見通し。",
        lambda: f"{lexicon.person().name}副署長は「ほかに関与した者はいない」と説明した。",
        lambda: f"{_who(lexicon.person(details=0.4))}は{rng.randint(2, 90)}万円の被害を受けた。",
    ]
    extra = beside(rng, sentences, length)
    if extra and rng.random() < 0.2:
        news, extra[0] = extra[0], news
    return Article("".join([news, *extra]), "case", case.offenders, case.locations, (case.police,))


def tell_quiet(lexicon: Lexicon, length: Length) -> Article:
    """Write an article that names people, places and often the police, but nobody who has committed an offence."""
    rng = lexicon.rng
    name = rng.choice(tuple(_STORIES))
    news = _STORIES[name](lexicon)
    sentences = [
        lambda: f"会場には{_who(lexicon.person(details=0.5))}の姿もあった。",
        lambda: f"{lexicon.town()}市の{lexicon.person().name}市長は「地域にとってよい日だ」と語った。",
        lambda: f"来年は{lexicon.town()}市でも予定されている。",
        lambda: f"{_who(lexicon.person(details=0.5))}は「驚いた」と話す。",
        lambda: f"{lexicon.company()}が協賛している。",
        lambda: f"{lexicon.police(lexicon.town())}によると、週末に大きな事故はなかった。",
        lambda: f"地元紙は{rng.randint(1880, 1990)}年に{lexicon.person().name}氏が創刊した。",
    ]
    return Article("".join([news, *beside(rng, sentences, length)]), name)


def _wanted(lexicon: Lexicon) -> str:
    town, (act, happened) = lexicon.town(), lexicon.offence()
    age = lexicon.rng.choice(("20代", "30代", "40代", "50代"))
    return (
        f"{lexicon.place(town)}で{happened}。{lexicon.police(town)}は{act}の疑いもあるとみて、{age}の男の行方を捜している。"
        f"通報した{lexicon.person().name}さんは男の顔を見ていない。"
    )


def _cleared(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"{lexicon.place(town)}で起きた{lexicon.offence()[0]}事件で、{lexicon.police(town)}は、話を聞いた{_who(lexicon.person())}は"
        "事件と無関係だったと発表した。容疑者は特定されていない。"
    )


def _opening(lexicon: Lexicon) -> str:
    place = lexicon.place(lexicon.town())
    return (
        f"{lexicon.company()}は{_day(lexicon)}、{place}に新店舗を開いた。責任者は{_who(lexicon.person(details=0.5))}。"
    )


def _appointment(lexicon: Lexicon) -> str:
    position = lexicon.rng.choice(lexicon.words.positions)
    return f"{lexicon.town()}市の{lexicon.company()}は{_who(lexicon.person(details=0.5))}を{position}に迎えた。"


def _campaign(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"{lexicon.police(town)}は{_day(lexicon)}、{lexicon.place(town)}で{lexicon.offence()[0]}の防止を呼びかけた。"
        f"{lexicon.person().name}巡査が来場者に身を守る方法を説明した。"
    )


def _award(lexicon: Lexicon) -> str:
    what = lexicon.rng.choice(("川の歴史の本", "三十年の合唱活動", "子どもの救助", "新しいパン"))
    return f"{lexicon.town()}市は{_day(lexicon)}、{what}をたたえ、{_who(lexicon.person())}に市民賞を贈った。"


def _sport(lexicon: Lexicon) -> str:
    first, second = lexicon.person(details=0.4), lexicon.person(details=0.2)
    return f"{lexicon.town()}市民マラソンで{_who(first)}が優勝した。2位は{second.name}さんだった。"


def _accident(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"{_day(lexicon)}の強風で、{lexicon.place(town)}の木が乗用車に倒れた。乗っていた{_who(lexicon.person())}にけがはなく、"
        f"{lexicon.police(town)}は事件性はないとしている。"
    )


_STORIES: dict[str, Story] = {
    "wanted": _wanted,
    "cleared": _cleared,
    "opening": _opening,
    "appointment": _appointment,
    "campaign": _campaign,
    "award": _award,
    "sport": _sport,
    "accident": _accident,
}


def _other_case(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"{lexicon.town_name(town)}で以前にあった未解決の事件は{lexicon.police(town)}が調べたが、今回とは関係がない。"
    )


def _day(lexicon: Lexicon) -> str:
    return f"{lexicon.rng.randint(1, 28)}日"


def _who(person: Person, style: str = "{name}さん") -> str:
    """Describe somebody: `桐見台市、あおば運送運転手、青柳明容疑者（34）`; without what is not known."""
    work = person.affiliation + (f"の{person.position}" if person.affiliation and person.position else person.position)
    parts = [part for part in (person.address, work) if part]
    age = f"({person.age})" if person.age else ""
    return "、".join([*parts, style.format(name=person.name) + age])
