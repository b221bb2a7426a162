"""Things to read, learn and cook: book, course, recipe."""

from __future__ import annotations

from ..draw import clock, code, date, decimal, flag, integer, one_of, phrase, text
from ..shapes import Family, Many
from .words import CITIES, COUNTRIES, FULL_NAMES, MAILS, MOODS, NAMES, REMARKS, TAGS

_TITLES = ("rivers", "gardens", "stars", "letters", "machines", "winters")

BOOK = Family(
    name="book",
    plural="books",
    brief={
        "id": integer(1, 99),
        "title": text("Rain", "Stars", "Home", "Wolves", "Bread"),
        "author": text(*NAMES),
        "pages": integer(20, 99),
        "price": decimal(1, 30),
        "new": flag(),
        "genre": one_of("crime", "poetry", "travel", "history"),
        "shelf": integer(1, 40),
        "city": text(*CITIES),
    },
    more={
        "subtitle": phrase(MOODS, _TITLES),
        "isbn": code("978-", 9),
        "published": date(),
        "language": one_of("English", "Japanese", "French"),
        "rating": decimal(0, 5, 2),
        "borrowed": flag(),
        "review": text(*REMARKS),
        "copies": integer(0, 100_000),
    },
    parts={
        "publisher": {
            "name": text("Lake Press", "Kita Books", "Old Mill"),
            "city": text(*CITIES),
            "founded": integer(1800, 2020),
        },
        "loan": {"to": text(*FULL_NAMES), "until": date(), "extended": flag()},
        "authors": Many({"name": text(*FULL_NAMES), "country": text(*COUNTRIES), "born": integer(1850, 2000)}),
        "subjects": Many(text(*TAGS)),
        "chapters": Many({"title": phrase(MOODS, _TITLES), "page": integer(1, 400), "appendix": flag()}),
        "prices": Many(decimal(1, 90, 2)),
    },
)

COURSE = Family(
    name="course",
    plural="courses",
    brief={
        "id": integer(1, 99),
        "title": text("math", "art", "music", "history", "biology"),
        "teacher": text(*NAMES),
        "room": integer(1, 60),
        "hours": integer(1, 40),
        "open": flag(),
        "level": one_of("easy", "middle", "hard"),
        "fee": decimal(0, 50),
        "day": one_of("Monday", "Tuesday", "Friday"),
    },
    more={
        "code": code("", 4),
        "begins": date(),
        "ends": date(),
        "start": clock(),
        "description": phrase(MOODS, _TITLES),
        "average_grade": decimal(1, 6, 2),
        "online": flag(),
        "remark": text(*REMARKS),
    },
    parts={
        "school": {
            "name": text("Hill School", "City College", "Open University"),
            "city": text(*CITIES),
            "public": flag(),
        },
        "exam": {"date": date(), "start": clock(), "minutes": integer(30, 240), "open_book": flag()},
        "students": Many({"name": text(*FULL_NAMES), "number": code("", 5), "grade": decimal(1, 6), "passed": flag()}),
        "topics": Many(text("waves", "poems", "cells", "empires", "colors")),
        "grades": Many(decimal(1, 6)),
        "books": Many({"title": phrase(MOODS, _TITLES), "pages": integer(40, 900), "required": flag()}),
    },
)

RECIPE = Family(
    name="recipe",
    plural="recipes",
    brief={
        "id": integer(1, 99),
        "name": text("soup", "bread", "salad", "pasta", "cake", "curry"),
        "serves": integer(1, 12),
        "minutes": integer(5, 90),
        "vegan": flag(),
        "cook": text(*NAMES),
        "salt": decimal(0, 5),
        "heat": one_of("low", "medium", "high"),
        "stars": integer(1, 5),
    },
    more={
        "title": phrase(MOODS, ("soup", "stew", "noodles", "dumplings")),
        "origin": text(*COUNTRIES),
        "written": date(),
        "oven_c": integer(80, 260),
        "freezer_c": integer(-25, -5),
        "cost": decimal(1, 60, 2),
        "spicy": flag(),
        "tip": text(*REMARKS),
    },
    parts={
        "nutrition": {
            "energy_kcal": integer(40, 1200),
            "fat_g": decimal(0, 90),
            "sugar_g": decimal(0, 90),
            "per": one_of("portion", "100 g"),
        },
        "author": {"name": text(*FULL_NAMES), "email": text(*MAILS), "verified": flag()},
        "ingredients": Many(
            {
                "name": text("flour", "rice", "tofu", "onion"),
                "amount": decimal(0, 500),
                "unit": one_of("g", "ml", "cup"),
            }
        ),
        "steps": Many(text("mix everything", "wait an hour", "bake until brown", "serve hot")),
        "tools": Many(text("pan", "pot", "knife", "oven")),
        "timers": Many({"label": text("rest", "boil", "cool"), "minutes": integer(1, 120), "optional": flag()}),
    },
)
