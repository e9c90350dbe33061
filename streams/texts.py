"""Text that others wrote, made fit to be shown: a receiving server's answer, an address, a reference.

The rule: text from outside becomes one line, and holds nothing that controls a terminal, or reorders or forges the text
around it. A page or a file does its own further escaping.
"""

import re
import unicodedata
from typing import Final

_SPACES: Final = re.compile(r"[\t\n\r\v\f\x85\u2028\u2029]+")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def clean(value: object) -> str:
    """Return a text as one harmless line: line breaks as spaces, no control, format or bidirectional characters."""
    text = _SPACES.sub(" ", str(value))
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in _HIDDEN)
