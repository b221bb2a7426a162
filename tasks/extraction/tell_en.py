"""English articles."""

from __future__ import annotations

from .article import Article, Length, Story, beside, draw_case
from .lexicon import Lexicon, Person

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ARRESTS = (
    "{police} arrested {who} on {day} on suspicion of {act} in {places}.",
    "{subject} was arrested on suspicion of {act} in {places}, {police} said on {day}.",
    "On {day}, {police} arrested {who} over {act} in {places}.",
    "{subject} has been charged with {act} after an incident in {places}, according to {police}.",
    "{subject} has admitted {act} in {places}, {police} reported on {day}.",
    "After a search that lasted weeks, {police} found {who}; the charge is {act} in {places}.",
)
_TOGETHER = (
    "{police} arrested {count} people on {day} on suspicion of {act} in {places}: {who}.",
    "Charged with {act} in {places} are {who}, {police} said on {day}.",
)
_COUNTS = {2: "two", 3: "three"}


def tell_case(lexicon: Lexicon, length: Length) -> Article:
    """Write an article with one to three offenders."""
    rng = lexicon.rng
    case = draw_case(lexicon, rng.choice(_DAYS))
    many = len(case.offenders) > 1
    facts = {
        "police": case.police,
        "day": case.day,
        "act": case.offenders[0].act,
        "places": " and in ".join(case.locations),
    }
    if many:
        who = "; ".join(_who(one) for one in case.offenders[:-1]) + f"; and {_who(case.offenders[-1])}"
        news = rng.choice(_TOGETHER).format(**facts, who=who, count=_COUNTS[len(case.offenders)])
    else:
        one = case.offenders[0]
        news = rng.choice(_ARRESTS).format(**facts, who=_who(one), subject=_subject(one))
    sentences = [
        lambda: f"{rng.choice(('Investigators say', 'The charge says', 'It is said'))} that {case.happened}.",
        lambda: f"{_subject(lexicon.person(details=0.5))} saw what happened and called for help.",
        lambda: f"{lexicon.person().name}, a lawyer for the defence, declined to comment.",
        lambda: f"The mayor of {lexicon.town()}, {lexicon.person().name}, thanked the officers.",
        lambda: _other_case(lexicon),
        lambda: f"The trial is expected to begin in {rng.choice(('spring', 'summer', 'autumn', 'winter'))}.",
        lambda: f"A spokesman, {lexicon.person().name}, said that nobody else is under suspicion.",
        lambda: f"{_subject(lexicon.person(details=0.4))} suffered a loss of {rng.randint(2, 90) * 100} pounds.",
    ]
    extra = beside(rng, sentences, length)
    if extra and rng.random() < 0.2:
        news, extra[0] = extra[0], news
    return Article(" ".join([news, *extra]), "case", case.offenders, case.locations, (case.police,))


def tell_quiet(lexicon: Lexicon, length: Length) -> Article:
    """Write an article that names people, places and often the police, but nobody who has committed an offence."""
    rng = lexicon.rng
    name = rng.choice(tuple(_STORIES))
    news = _STORIES[name](lexicon)
    sentences = [
        lambda: f"{_subject(lexicon.person(details=0.5))} was among those present.",
        lambda: f"The mayor of {lexicon.town()}, {lexicon.person().name}, spoke of a good day for the region.",
        lambda: f"A similar event is planned in {lexicon.town()} next year.",
        lambda: f'"I did not expect that," said {_who(lexicon.person(details=0.5))}.',
        lambda: f"{lexicon.company()} supports the project.",
        lambda: f"{lexicon.police(lexicon.town())} reported a quiet weekend.",
        lambda: f"The local paper was founded by {lexicon.person().name} in {rng.randint(1880, 1990)}.",
    ]
    return Article(" ".join([news, *beside(rng, sentences, length)]), name)


def _wanted(lexicon: Lexicon) -> str:
    town, (act, happened) = lexicon.town(), lexicon.offence()
    age = lexicon.rng.choice(("twenties", "thirties", "forties", "fifties"))
    return (
        f"{lexicon.police(town)} is looking for a man in his {age} after {act} in {lexicon.place(town)}: {happened}. "
        f"{lexicon.person().name}, who raised the alarm, could not describe him."
    )


def _cleared(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"{lexicon.police(town)} said that {_subject(lexicon.person())} has nothing to do with the {lexicon.offence()[0]} in "
        f"{lexicon.place(town)}; nobody is under suspicion."
    )


def _opening(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"{lexicon.company()} opened a branch in {lexicon.place(town)} on {lexicon.rng.choice(_DAYS)}. "
        f"{_subject(lexicon.person(details=0.5))} will run it."
    )


def _appointment(lexicon: Lexicon) -> str:
    who, position = _subject(lexicon.person(details=0.5)), lexicon.rng.choice(lexicon.words.positions)
    return f"{who} has been named {position} at {lexicon.company()} in {lexicon.town()}."


def _campaign(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"{lexicon.police(town)} held a day against {lexicon.offence()[0]} in {lexicon.place(town)}. Officer "
        f"{lexicon.person().name} showed visitors how to protect themselves."
    )


def _award(lexicon: Lexicon) -> str:
    return (
        f"{_subject(lexicon.person())} received a prize from the town of {lexicon.town()} for "
        f"{lexicon.rng.choice(('a book on rivers', 'thirty years in the choir', 'saving a child', 'a new bread'))}."
    )


def _sport(lexicon: Lexicon) -> str:
    first, second, town = lexicon.person(details=0.4), lexicon.person(details=0.2), lexicon.town()
    return f"{_subject(first)} won the {town} half marathon, ahead of {second.name}."


def _accident(lexicon: Lexicon) -> str:
    town = lexicon.town()
    return (
        f"A tree fell on a car in {lexicon.place(town)} during the storm. {_subject(lexicon.person())} was not hurt, "
        f"{lexicon.police(town)} said; nobody is to blame."
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
    return f"An older case in {town}, which {lexicon.police(town)} has never solved, is not part of it."


def _who(person: Person) -> str:
    """Describe somebody: `Clara Finch, 34, a nurse at Alder Clinic, of Larkhill`; without what is not known."""
    parts = [person.name, person.age]
    if person.position:
        article = "an" if person.position[0] in "aeiou" else "a"
        parts.append(f"{article} {person.position}" + (f" at {person.affiliation}" if person.affiliation else ""))
    elif person.affiliation:
        parts.append(f"who works for {person.affiliation}")
    if person.address:
        parts.append(f"of {person.address}")
    return ", ".join(part for part in parts if part)


def _subject(person: Person) -> str:
    """Describe somebody as the subject of a sentence: with a comma behind what follows the name."""
    who = _who(person)
    return who if who == person.name else f"{who},"
