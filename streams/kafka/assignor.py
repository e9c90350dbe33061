"""Faust's assignor, which also takes what was assigned to an earlier process of the same name.

A static member that comes back gets the assignment that the group had for it, as it was written then: nobody divides
anything. Faust expects its own URL in it, made of the host's name. But a new container has another one, and so has
another host; every start would end with an AssertionError until the group is divided again.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from faust.assignor import PartitionAssignor
from faust.assignor.client_assignment import ClientMetadata
from yarl import URL


class Assignor(PartitionAssignor):
    """Faust's assignor; nothing is served at the URL of a member, so any is good that no other member has."""

    _given_url: URL | None = None
    """The URL in the assignment that is being taken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The assignment tells by URL what each member has; those of two workers on one host would be the same. Short, as
        # it stands in the group's metadata once for each partition and member, and a broker takes 1 MiB of them.
        self._own_url = URL(f"http://{uuid4().hex[:12]}")

    def on_assignment(self, assignment: Any) -> None:  # type: ignore[override] # aiokafka's is a class method, Faust's is not
        """Take an assignment, whichever URL it names."""
        self._given_url = URL(ClientMetadata.loads(self._decompress(assignment.user_data)).url)
        super().on_assignment(assignment)
        self._given_url = None

    @property
    def divided(self) -> Mapping[str, int]:
        """How many partitions of each topic were divided among the members for this assignment."""
        return Counter(tp.topic for tps in (self._tps_url, self._external_tps_url) for tp in tps)

    @property
    def _url(self) -> URL:
        return self._given_url or self._own_url
