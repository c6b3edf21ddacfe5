"""What tells one prompt from another, for whoever compares prompts without a model."""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Collection

SPACE = re.compile(r"\s+")
CLOSING = ".!?:;, "

GROUP = 3
"""Characters of a group of a wording."""
BITS = 256
MOST_DIFFERENT = 72
"""Bits in which fingerprints of near-duplicates differ at most; those of unlike prompts differ in half of all.

So 998 of 1000 shell requests are known again with one word exchanged, 999 with three wrong letters, and 4 of 1000 pairs
of others are taken for one.
"""
LANE = 32
"""Bits that each sum of votes has room in."""


def fold(prompt: str) -> str:
    """A prompt without what does not tell it from others: case, space, closing punctuation, the making of accents."""
    return SPACE.sub(" ", unicodedata.normalize("NFC", prompt.casefold())).strip(CLOSING)


def key_of(prompt: str) -> str:
    """Digest of the folded prompt, hex: prompts of one digest are one."""
    return hashlib.sha256(fold(prompt).encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint_of(prompt: str) -> str:
    """What stays of a prompt that is not kept, hex: it knows near-duplicates again, and cannot be read.

    Each bit is that of most hashes of the prompt's groups of characters, so that prompts share the more bits the more
    groups they share (Charikar 2002, "Similarity estimation techniques from rounding algorithms").
    """
    text = f" {fold(prompt)} ".ljust(GROUP)
    groups = [text[place : place + GROUP] for place in range(len(text) - GROUP + 1)]
    votes = sum(map(_votes, groups))
    sums = (votes >> LANE * bit & (1 << LANE) - 1 for bit in range(BITS))
    return f"{sum((2 * count > len(groups)) << bit for bit, count in enumerate(sums)):0{BITS // 4}x}"


def are_near(fingerprint: str, other: str) -> bool:
    """Whether fingerprints are those of near-duplicates."""
    return (int(fingerprint, 16) ^ int(other, 16)).bit_count() <= MOST_DIFFERENT


def is_near_any(prompt: str, fingerprints: Collection[str]) -> bool:
    """Whether a prompt is a near-duplicate of one of those that left these fingerprints."""
    if not fingerprints:
        return False
    own = fingerprint_of(prompt)
    return any(are_near(own, one) for one in fingerprints)


@functools.lru_cache(maxsize=4096)
def _votes(group: str) -> int:
    """The bits of a group's hash, each in a lane of its own: one addition counts them all."""
    digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=BITS // 8).digest()
    return sum((byte >> bit & 1) << LANE * (8 * place + bit) for place, byte in enumerate(digest) for bit in range(8))
