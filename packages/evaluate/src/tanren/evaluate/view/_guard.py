"""Who may ask what: the rules that a request is held against before anything is read or written.

The server listens on the loopback interface alone. That does not keep out other users of the machine (so: a token), pages of
other sites in the user's browser (so: the origin of writes, and what the browser says of where a request comes from), nor a
site whose name is made to point to this machine, DNS rebinding (so: the names in Host).
"""

from __future__ import annotations

import hmac
from email.message import Message
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

NAMES = {"127.0.0.1", "localhost"}
"""Names under which the page is asked for, at any port: a tunnel's end may have another one."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""With every answer: no script but ours runs, whatever a model wrote, and no other site may hold the page."""


def cookie_name(port: int) -> str:
    """Return the name of the token's cookie: browsers do not tell the cookies of two ports apart."""
    return f"tanren_view_{port}"


def refusal(headers: Message, *, opens: bool = False, writes: bool = False) -> str | None:
    """Return why a request is refused by where it comes from, None where it may go on.

    `opens`: it brings the token in the address, so it may come from a link anywhere, such as one in a terminal in the browser.
    """
    host = headers.get("Host", "")
    if _name(host) not in NAMES:
        return "the Host header names another machine; open the address as it was printed"
    if not opens and headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "the request comes from another site"
    if writes and headers.get("Origin") != f"http://{host}":
        return "the request does not come from this page (its Origin)"
    return None


def knows_token(headers: Message, token: str, port: int) -> bool:
    """Whether a request brings the token, in its cookie or in the header X-Tanren-Token."""
    try:
        cookie = SimpleCookie(headers.get("Cookie", "")).get(cookie_name(port))
    except CookieError:
        cookie = None
    given = headers.get("X-Tanren-Token", "") if cookie is None else cookie.value
    return same_token(given, token)


def same_token(given: str, token: str) -> bool:
    """Compare two tokens in a time that does not tell how much of them is equal."""
    return hmac.compare_digest(given.encode(), token.encode())


def _name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for what is no port
    except ValueError:
        return None
    return parts.hostname if "@" not in host and "/" not in host else None
