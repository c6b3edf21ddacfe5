"""What tells one prompt from another, for whoever compares prompts without a model."""

import hashlib
import re
import struct
import unicodedata
from collections.abc import Iterator

SPACE = re.compile(r"\s+")
CLOSING = ".!?:;, "

GROUPS = (2, 3)
"""Characters of a group of a wording."""
PARTS = 4
"""Of a prompt, by its length: a group is known by the part that it stands in, too."""
DRAWS = 16
"""Numbers that one hash of a group gives, each for a minimum of its own."""
MINIMA = 240
"""Of a fingerprint; a multiple of `DRAWS`."""
NEAR = 0.55
"""Share of equal minima from which fingerprints are those of near-duplicates.

Among 2000 descriptions of shell commands so many near-duplicates are known again: all with an edit similarity of 0.92,
nine in ten with one of 0.88, half with one of 0.85. Of pairs below 0.75 one in a hundred thousand is taken for one, of
those below 0.6 none of two million.
"""
NOTHING = 0xFFFF
"""In the place of a minimum that no group came to."""


def fold(prompt: str) -> str:
    """A prompt without what does not tell it from others: case, space, closing punctuation, the making of accents."""
    return SPACE.sub(" ", unicodedata.normalize("NFC", prompt.casefold())).strip(CLOSING)


def key_of(prompt: str) -> str:
    """Digest of the folded prompt, hex: prompts of one digest are one."""
    return hashlib.sha256(fold(prompt).encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint_of(prompt: str, secret: bytes) -> str:
    """What stays of a prompt that is not kept, hex: whoever has the secret knows near-duplicates of it again.

    Least hashes of the prompt's groups of characters, of each with the part of the prompt that it stands in: prompts
    share the more minima the more groups they share in the same places (Broder 1997, "On the resemblance and
    containment of documents"; one hash serves many minima: Li, Owen and Zhang 2012, "One permutation hashing").
    """
    bins = MINIMA // DRAWS
    least = [1 << 32] * MINIMA
    for group in set(_groups(f" {fold(prompt)} ")):
        hashed = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=4 * DRAWS, key=secret).digest()
        for draw, number in enumerate(struct.unpack(f"<{DRAWS}I", hashed)):
            place = draw * bins + number % bins
            least[place] = min(least[place], number // bins)
    minima = (NOTHING if number == 1 << 32 else number % NOTHING for number in least)
    return struct.pack(f">{MINIMA}H", *minima).hex()


def _groups(text: str) -> Iterator[str]:
    """Each group of characters with the part of the text that it is in; between two parts it counts to both."""
    for size in GROUPS:
        count = max(1, len(text) - size + 1)
        for place in range(count):
            half, group = 2 * PARTS * place // count, text[place : place + size]
            yield f"{half // 2}{group}"
            yield f"+{(half + 1) // 2}{group}"
