"""People and what they do: person, member, event, clinic visit."""

from __future__ import annotations

from ..draw import clock, code, date, decimal, flag, integer, moment, one_of, phrase, text
from ..shapes import Family, Many
from .words import CITIES, COUNTRIES, FULL_NAMES, MAILS, MOODS, NAMES, PHONES, REMARKS, STREETS

_HOME = {
    "street": text(*STREETS),
    "number": integer(1, 240),
    "city": text(*CITIES),
    "country": text(*COUNTRIES),
}
_JOBS = ("cook", "nurse", "pilot", "baker", "clerk", "artist", "coach")
_HOBBIES = ("chess", "running", "painting", "cooking", "tennis", "music")

PERSON = Family(
    name="person",
    plural="people",
    brief={
        "id": integer(1, 99),
        "name": text(*NAMES),
        "age": integer(18, 90),
        "city": text(*CITIES),
        "job": text(*_JOBS),
        "height": decimal(1, 2),
        "member": flag(),
        "pet": text("cat", "dog", "bird", "fish"),
        "score": integer(0, 60),
    },
    more={
        "full_name": text(*FULL_NAMES),
        "born": date(),
        "email": text(*MAILS),
        "phone": text(*PHONES),
        "salary": decimal(900, 9000, 2),
        "employee_code": code("", 5),
        "remote": flag(),
        "about": text(*REMARKS),
    },
    parts={
        "home": _HOME,
        "employer": {
            "name": text("Acme Ltd", "North and Sons", "Kita Trading"),
            "since": date(),
            "address": _HOME,
        },
        "hobbies": Many(text(*_HOBBIES)),
        "languages": Many(
            {
                "name": text("English", "Japanese", "Spanish", "Hindi"),
                "level": one_of("A2", "B1", "C1"),
                "native": flag(),
            }
        ),
        "children": Many({"name": text(*NAMES), "age": integer(0, 17)}),
        "lucky_numbers": Many(integer(-9, 99)),
    },
)

MEMBER = Family(
    name="member",
    plural="members",
    brief={
        "id": integer(1, 99),
        "name": text(*NAMES),
        "plan": one_of("free", "basic", "pro"),
        "points": integer(0, 80),
        "active": flag(),
        "fee": decimal(1, 50),
        "sport": text("tennis", "golf", "chess", "judo"),
        "level": integer(1, 9),
        "team": text("red", "blue", "lions", "bears"),
    },
    more={
        "joined": date(),
        "last_login": moment(),
        "card": code("", 7),
        "balance": decimal(-100, 300, 2),
        "mail": text(*MAILS),
        "newsletter": flag(),
        "nickname": phrase(MOODS, ("fox", "owl", "wolf", "bear")),
        "visits": integer(0, 2000),
    },
    parts={
        "address": _HOME,
        "emergency": {
            "name": text(*FULL_NAMES),
            "phone": text(*PHONES),
            "relation": one_of("parent", "partner", "friend"),
        },
        "courses": Many(
            {
                "title": text("yoga", "judo", "swimming"),
                "day": one_of("Monday", "Friday", "Sunday"),
                "time": clock(),
                "full": flag(),
            }
        ),
        "badges": Many(text("early bird", "helper", "champion", "newcomer")),
        "scores": Many(decimal(0, 10)),
        "preferences": {
            "language": one_of("en", "ja", "es"),
            "theme": one_of("dark", "light"),
            "font_size": integer(8, 24),
        },
    },
)

EVENT = Family(
    name="event",
    plural="events",
    brief={
        "id": integer(1, 99),
        "title": text("fair", "concert", "race", "dinner", "talk"),
        "city": text(*CITIES),
        "seats": integer(5, 90),
        "price": decimal(0, 40),
        "open": flag(),
        "day": one_of("Monday", "Friday", "Sunday"),
        "host": text(*NAMES),
        "hours": integer(1, 12),
    },
    more={
        "date": date(),
        "start": clock(),
        "end": clock(),
        "subtitle": phrase(MOODS, ("songs", "stories", "machines", "gardens")),
        "ticket_code": code("", 6),
        "rain_plan": text(*REMARKS),
        "sold_out": flag(),
        "profit": decimal(-2000, 5000, 2),
    },
    parts={
        "venue": {
            "name": text("Town Hall", "Old Mill", "River Stage"),
            "capacity": integer(20, 5000),
            "address": _HOME,
        },
        "contact": {"name": text(*FULL_NAMES), "email": text(*MAILS), "phone": text(*PHONES)},
        "speakers": Many(
            {
                "name": text(*FULL_NAMES),
                "topic": text("bees", "robots", "rivers"),
                "time": clock(),
                "paid": flag(),
            }
        ),
        "sponsors": Many(text("Acme Ltd", "Blue Harbor", "City Bank")),
        "sessions": Many(
            {"room": code("R", 2), "title": text("opening", "panel", "workshop"), "minutes": integer(15, 120)}
        ),
        "ages": Many(integer(6, 90)),
    },
)

VISIT = Family(
    name="visit",
    plural="visits",
    brief={
        "id": integer(1, 99),
        "patient": text(*NAMES),
        "age": integer(1, 95),
        "pulse": integer(50, 99),
        "temp": decimal(36, 40),
        "fever": flag(),
        "doctor": text(*NAMES),
        "room": integer(1, 20),
        "reason": text("cough", "checkup", "rash", "pain"),
    },
    more={
        "date": date(),
        "arrived": clock(),
        "record": code("", 8),
        "weight_kg": decimal(3, 140),
        "weight_change": decimal(-9, 9),
        "insured": flag(),
        "finding": text(*REMARKS),
        "next_visit": date(),
    },
    parts={
        "clinic": {
            "name": text("North Clinic", "City Hospital", "Lake Practice"),
            "ward": code("W", 2),
            "address": _HOME,
        },
        "blood_pressure": {"systolic": integer(90, 180), "diastolic": integer(50, 110), "resting": flag()},
        "symptoms": Many(text("cough", "fever", "headache", "tired")),
        "prescriptions": Many(
            {
                "drug": text("ibuprofen", "vitamin D", "zinc"),
                "dose_mg": decimal(0, 800),
                "per_day": integer(1, 4),
                "with_food": flag(),
            }
        ),
        "allergies": Many(text("nuts", "pollen", "milk")),
        "lab": Many(
            {
                "test": text("glucose", "iron", "sodium"),
                "value": decimal(0, 200, 2),
                "unit": one_of("mg/dL", "mmol/L"),
            }
        ),
    },
)
