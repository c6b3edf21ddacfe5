"""Reads pages as a browser does."""

from collections.abc import Callable
from xml.etree.ElementTree import Element

import html5lib


def elements(page: str) -> Callable[[str], list[Element]]:
    """All elements of a name in a page, wherever they stand, SVG included; `*` for every one."""
    document = html5lib.parse(page)

    def named(name: str) -> list[Element]:
        return [
            one
            for one in document.iter()
            if isinstance(one.tag, str) and (name == "*" or one.tag.rpartition("}")[2] == name)
        ]

    return named


def text_of(page: str) -> str:
    """What a person can read or select."""
    return "".join(html5lib.parse(page).itertext())
