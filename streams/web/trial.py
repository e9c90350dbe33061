"""The mark of ``mailstreams webhook test``: such a webhook shows that our side works, not that the provider calls.

The rule: **the mark proves nothing and opens nothing**. A marked request passes the same checks as any other, is answered
and written in the same way, and counts as refused if it is refused. Only once it is written is it counted apart, so that
no alert takes it for a sign of life of the provider. So who sets the mark can cause an alert, and can prevent none.
"""

from collections.abc import Mapping
from typing import Final

HEADER: Final = "mailstreams-test"
"""An HTTP header, in lower case. Its value does not matter."""


def is_trial(headers: Mapping[str, str]) -> bool:
    """Return whether a request says that it is a test; its headers' names are in lower case."""
    return HEADER in headers
