"""What tells one prompt from another, for whoever compares prompts without a model."""

import hashlib
import re
import unicodedata

SPACE = re.compile(r"\s+")
CLOSING = ".!?:;, "


def fold(prompt: str) -> str:
    """A prompt without what does not tell it from others: case, space, closing punctuation, the making of accents."""
    return SPACE.sub(" ", unicodedata.normalize("NFC", prompt.casefold())).strip(CLOSING)


def key_of(prompt: str) -> str:
    """Digest of the folded prompt, hex: prompts of one digest are one."""
    return hashlib.sha256(fold(prompt).encode("utf-8", "surrogatepass")).hexdigest()
