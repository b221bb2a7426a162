"""Words that several families draw from: plain ASCII, so that `strings = "plain"` holds."""

from __future__ import annotations

NAMES = (
    "Ann",
    "Ben",
    "Carl",
    "Dora",
    "Emma",
    "Finn",
    "Gina",
    "Hugo",
    "Ivan",
    "Jane",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
)
FULL_NAMES = (
    "Ann Moore", "Ben Carter", "Carla Diaz", "David Kim", "Emma Stone", "Farid Khan", "Grace Lee",
    "Hiro Tanaka", "Ines Costa", "Jonas Weber", "Keiko Mori", "Liam Byrne", "Maria Rossi",
    "Nadia Petrova", "Omar Haddad", "Priya Nair",
)  # fmt: skip
CITIES = (
    "Rome",
    "Oslo",
    "Paris",
    "Lima",
    "Cairo",
    "Tokyo",
    "Delhi",
    "Berlin",
    "Madrid",
    "Boston",
    "Dublin",
    "Vienna",
)
COUNTRIES = ("Italy", "Norway", "France", "Peru", "Egypt", "Japan", "India", "Germany", "Spain", "Ireland")
STREETS = ("Main Street", "Oak Avenue", "Hill Road", "Station Lane", "Park Row", "Mill Street")
COLORS = ("red", "blue", "green", "black", "white", "gray", "pink", "brown")
GOODS = ("cup", "lamp", "chair", "desk", "pen", "bag", "hat", "book", "clock", "ball", "box", "shirt")
MOODS = ("old", "new", "small", "large", "quiet", "bright", "heavy", "simple", "spare", "strong")
REMARKS = (
    "call first",
    "leave at the door",
    "check again on Monday",
    "none so far",
    "handle with care",
    "waiting for parts",
    "paid in cash",
)
TAGS = ("sale", "new", "gift", "local", "fresh", "rare", "urgent", "beta", "draft", "spare")
MAILS = (
    "ann@example.com",
    "ben.c@example.org",
    "info@example.net",
    "kate+news@example.com",
    "office@example.jp",
)
PHONES = ("+44 20 5550 1234", "+81 3 5550 0199", "555-0142", "+1 212 555 0177", "+49 30 555012")
CURRENCIES = ("EUR", "USD", "JPY", "GBP", "INR")
