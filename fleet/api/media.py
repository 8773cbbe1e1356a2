"""Images, films, sounds and files in a message: refused as what they are, since a model is run on its text alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fleet.api.errors import UnsupportedParameter

# By a word in a field's name or a content's type, as clients of OpenAI, vLLM, Ollama and transformers have them: image_url, input_audio.
_KINDS = {
    **dict.fromkeys(("image", "images"), "images"),
    **dict.fromkeys(("video", "videos"), "videos"),
    **dict.fromkeys(("audio", "audios"), "sounds"),
    **dict.fromkeys(("file", "files"), "files"),
}


def refuse_media(names: Iterable[str], where: str) -> None:
    """`names` are those of fields, or types of content, of what is `where` in the request. Raises UnsupportedParameter for the first that
    holds anything but text."""
    for name in names:
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in _KINDS:
                raise UnsupportedParameter(where, f"{_KINDS[word]} are not supported: a model is run on its text alone")
