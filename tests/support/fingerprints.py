"""Fingerprints of prompts, two by two and by the definition."""

import struct

from nightschool_daemon.wording import MINIMA, NEAR, NOTHING


def are_near(fingerprint: str, other: str) -> bool:
    """Whether two fingerprints are those of near-duplicates."""
    pairs = [pair for pair in zip(minima_of(fingerprint), minima_of(other), strict=True) if pair != (NOTHING, NOTHING)]
    return sum(one == another for one, another in pairs) >= NEAR * len(pairs)


def minima_of(fingerprint: str) -> tuple[int, ...]:
    """The minima that a fingerprint is made of."""
    return struct.unpack(f">{MINIMA}H", bytes.fromhex(fingerprint))
