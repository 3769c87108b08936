"""Bytes of a user's file as text: UTF-8, and no other encoding that would pass for it."""

import re

BOM = b"\xef\xbb\xbf"
_SHIFT = re.compile(rb"\x1b(?:\$[@AB]|\$[()*+][@-Z]|\([IJ])")
"""Escapes that begin with other characters in ISO-2022-JP, -KR and -CN. Terminals write none of them."""


def utf8(raw: bytes) -> str:
    """The text of these bytes.

    Raises UnicodeDecodeError where they aren't UTF-8, and at an escape of ISO-2022: its characters are
    written in bytes of ASCII, and would be read as such.
    """
    if (shift := _SHIFT.search(raw)) is not None:
        raise UnicodeDecodeError("utf-8", raw, shift.start(), shift.end(), "an escape of ISO-2022")
    return raw.decode("utf-8")
