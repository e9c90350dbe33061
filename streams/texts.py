"""Text that others wrote, made fit to be shown: a receiving server's answer, an address, a reference.

The rule: what came from outside is one line, and holds nothing that a terminal obeys or that reorders or forges what
stands around it. What a page or a file escapes besides is its own matter.
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
