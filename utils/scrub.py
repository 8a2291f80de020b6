"""Credentials out of texts that are stored or shown. Where texts come from and go to is the caller's business."""

import os
import re
from urllib.parse import unquote

SECRET_KEY = re.compile(r"(^|[._-])(password|passwd|token|secret|api_?key|access_?key)$", re.IGNORECASE)
"""Names of configuration keys whose value nobody should read."""

_VARIABLE = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|API_KEY|ACCESS_KEY|ACCOUNT_KEY|PRIVATE_KEY|CONNECTION_STRING)$")
_PASSWORD = re.compile(r"\w://[^/\s:@]*:([^\s@]+)@")
_SHORTEST = 6  # shorter ones would hide ordinary words
_IN_ADDRESS = (
    (re.compile(r"(\w://)[^/\s:@]*:[^\s@]*@"), r"\1***@"),  # user:password@, whatever is in the password
    (re.compile(r"(\w://)[^/\s]+@"), r"\1***@"),
    (re.compile(r"([?&;]\w*(?:token|password|secret|key|signature)\w*=)[^&;\s]+", re.IGNORECASE), r"\1***"),
)


def scrub(text: str) -> str:
    """`text` with *** for credentials inside addresses, for the values of environment variables that are named like a secret, and for the
    passwords of addresses in other variables, MLFLOW_TRACKING_URI above all, wherever they stand.
    """
    for pattern, replacement in _IN_ADDRESS:
        text = pattern.sub(replacement, text)
    for secret in _secrets():
        text = text.replace(secret, "***")
    return text


def _secrets() -> list[str]:
    """Longest first: one may be part of another."""
    found = {value for name, value in os.environ.items() if _VARIABLE.search(name)}
    passwords = {match[1] for value in os.environ.values() for match in _PASSWORD.finditer(value)}
    return sorted((value for value in found | passwords | set(map(unquote, passwords)) if len(value) >= _SHORTEST), key=len, reverse=True)
