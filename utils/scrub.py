"""Credentials out of texts that are stored or shown. Where texts come from and go to is the caller's business."""

import os
import re

SECRET_KEY = re.compile(r"(^|[._-])(password|passwd|token|secret|api_?key|access_?key)$", re.IGNORECASE)
"""Names of configuration keys whose value nobody should read."""

_VARIABLE = re.compile(r"(PASSWORD|TOKEN|SECRET|API_KEY|ACCESS_KEY)$")
_IN_ADDRESS = (
    (re.compile(r"(\w://)[^/\s:@]*:[^\s@]*@"), r"\1***@"),  # user:password@, whatever is in the password
    (re.compile(r"(\w://)[^/\s]+@"), r"\1***@"),
    (re.compile(r"([?&;]\w*(?:token|password|secret|key|signature)\w*=)[^&;\s]+", re.IGNORECASE), r"\1***"),
)


def scrub(text: str) -> str:
    """`text` with *** for credentials inside addresses and for the values of environment variables that are named like a secret."""
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and len(value) >= 6:  # shorter ones would hide ordinary words
            text = text.replace(value, "***")
    for pattern, replacement in _IN_ADDRESS:
        text = pattern.sub(replacement, text)
    return text
