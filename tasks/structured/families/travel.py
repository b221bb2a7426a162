"""Travel: flight, hotel stay, tour."""

from __future__ import annotations

from ..draw import clock, code, date, decimal, flag, integer, moment, one_of, phrase, text
from ..shapes import Family, Many
from .words import CITIES, COUNTRIES, CURRENCIES, FULL_NAMES, MAILS, MOODS, NAMES, PHONES, REMARKS

FLIGHT = Family(
    name="flight",
    plural="flights",
    brief={
        "id": integer(1, 99),
        "from": text(*CITIES),
        "to": text(*CITIES),
        "gate": integer(1, 40),
        "late": flag(),
        "seats": integer(10, 99),
        "pilot": text(*NAMES),
        "class": one_of("eco", "plus", "first"),
        "hours": decimal(1, 14),
    },
    more={
        "number": code("TN", 4),
        "departure": moment(),
        "arrival": moment(),
        "aircraft": text("A320", "B787", "E190"),
        "price": decimal(20, 1500, 2),
        "outside_c": integer(-65, 40),
        "boarding": clock(),
        "notice": text(*REMARKS),
        "international": flag(),
    },
    parts={
        "origin": {
            "code": one_of("FCO", "OSL", "HND", "LIM"),
            "city": text(*CITIES),
            "terminal": integer(1, 5),
        },
        "destination": {
            "code": one_of("CDG", "DEL", "BOS", "NRT"),
            "city": text(*CITIES),
            "position": {
                "latitude": decimal(-90, 90, 4),
                "longitude": decimal(-180, 180, 4),
                "elevation_m": integer(-3, 2500),
            },
        },
        "passengers": Many(
            {
                "name": text(*FULL_NAMES),
                "seat": text("1A", "12C", "30F"),
                "bags": integer(0, 3),
                "vegetarian": flag(),
            }
        ),
        "crew": Many(text(*NAMES)),
        "delays": Many(integer(0, 180)),
        "legs": Many({"from": text(*CITIES), "to": text(*CITIES), "minutes": integer(30, 900)}),
    },
)

HOTEL = Family(
    name="stay",
    plural="stays",
    brief={
        "id": integer(1, 99),
        "guest": text(*NAMES),
        "room": integer(1, 90),
        "nights": integer(1, 20),
        "city": text(*CITIES),
        "price": decimal(10, 90),
        "paid": flag(),
        "bed": one_of("single", "double", "bunk"),
        "floor": integer(1, 12),
    },
    more={
        "check_in": date(),
        "check_out": date(),
        "arrival": clock(),
        "door_code": code("", 5),
        "total": decimal(20, 4000, 2),
        "currency": one_of(*CURRENCIES),
        "late_checkout": flag(),
        "wish": text(*REMARKS),
    },
    parts={
        "hotel": {
            "name": phrase(MOODS, ("Harbor", "Garden", "Lion")),
            "stars": integer(1, 5),
            "country": text(*COUNTRIES),
            "phone": text(*PHONES),
        },
        "breakfast": {"included": flag(), "from": clock(), "price": decimal(0, 30, 2)},
        "guests": Many({"name": text(*FULL_NAMES), "email": text(*MAILS), "adult": flag()}),
        "extras": Many({"title": text("parking", "sauna", "minibar"), "cost": decimal(0, 60, 2), "date": date()}),
        "requests": Many(text("quiet room", "extra towel", "crib", "no feathers")),
        "ratings": Many(integer(1, 5)),
    },
)

TOUR = Family(
    name="trip",
    plural="trips",
    brief={
        "id": integer(1, 99),
        "place": text(*CITIES),
        "days": integer(1, 20),
        "guide": text(*NAMES),
        "cost": decimal(5, 90),
        "full": flag(),
        "group": integer(2, 40),
        "by": one_of("bus", "train", "boat", "bike"),
        "km": decimal(1, 99),
    },
    more={
        "title": phrase(MOODS, ("roads", "coasts", "castles", "forests")),
        "starts": date(),
        "meeting": clock(),
        "booked_at": moment(),
        "booking": code("", 6),
        "lowest_m": integer(-400, 100),
        "guided": flag(),
        "remark": text(*REMARKS),
    },
    parts={
        "leader": {
            "name": text(*FULL_NAMES),
            "phone": text(*PHONES),
            "first_aid": flag(),
            "years": integer(0, 30),
        },
        "start": {"city": text(*CITIES), "country": text(*COUNTRIES), "altitude_m": integer(-50, 3500)},
        "stops": Many({"place": text(*CITIES), "day": integer(1, 20), "lunch": flag(), "until": clock()}),
        "gear": Many(text("boots", "rain coat", "map", "water")),
        "distances": Many(decimal(1, 40)),
        "travellers": Many({"name": text(*FULL_NAMES), "age": integer(6, 90), "paid": decimal(0, 900, 2)}),
    },
)
