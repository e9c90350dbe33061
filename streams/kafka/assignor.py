"""Faust's assignor, which also takes what was assigned to an earlier process of the same name.

A static member that comes back gets the assignment that the group had for it, as it was written then: nobody divides
anything. Faust expects its own URL in it, made of the host's name. But a new container has another one, and so has
another host; every start would end with an AssertionError until the group is divided again.
"""

from typing import Any

from faust.assignor import PartitionAssignor
from faust.assignor.client_assignment import ClientMetadata
from yarl import URL


class Assignor(PartitionAssignor):
    """Faust's assignor; nothing is served at the URL of a member, so any is good."""

    _given_url: URL | None = None

    def on_assignment(self, assignment: Any) -> None:  # type: ignore[override] # aiokafka's is a class method, Faust's is not
        """Take an assignment, whichever URL it names."""
        self._given_url = URL(ClientMetadata.loads(self._decompress(assignment.user_data)).url)
        super().on_assignment(assignment)

    @property
    def divided(self) -> frozenset[str]:
        """The topics whose partitions were divided among the members for this assignment; none before the first."""
        return frozenset(self._topic_groups)

    @property
    def _url(self) -> URL:
        return self._given_url or URL(super()._url)
