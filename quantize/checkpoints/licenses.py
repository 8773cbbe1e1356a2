"""What a checkpoint says of its licence, as an artifact states it."""

from __future__ import annotations

# What hubs write in lower case, as SPDX has it; other identifiers are passed on as they are.
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
}


def stated_license(identifier: str, name: str = "") -> str:
    """An SPDX identifier where one is known, the publisher's `name` for a licence of their own, else what is stated."""
    return name if identifier == "other" and name else _SPDX.get(identifier.lower(), identifier)
