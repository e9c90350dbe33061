"""When bad records stop a partition, and how it is resumed.

A record that can never be understood goes to the dead letters, and the others are
processed. But a broken release, or a provider that changed its format, must not pour a
whole topic into the dead letters: when too large a share of a partition's recent
records is bad, the partition stops, and only a person resumes it.

``Poison`` is what is known of one partition. It is stored with the partition's
position, in the same transaction or commit, so that a restart neither forgets
the share nor resumes a stopped partition.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonLimit:
    """The share of bad records that stops a partition."""

    share: float
    """0 to 1, exclusive bound."""
    window: int
    """The share is taken over about this many of the last records."""
    minimum: int
    """Up to this many bad records in the window never stop a partition."""


@dataclass(slots=True)
class Poison:
    """How bad one partition's recent records are, and whether it is stopped."""

    seen: int = 0
    bad: int = 0
    stopped: str | None = None
    """Why the partition is stopped, without personal data; None while it runs."""
    stopped_at: int = field(default=-1, compare=False)
    """The offset at which it was stopped. Its position is the same, unless retention has overtaken it since."""
    through: int = -1
    """Bad records up to this offset go to the dead letters without being counted."""
    resume_id: str = ""
    """The last resume command that was obeyed; no command is obeyed twice."""

    def good(self, limit: PoisonLimit, count: int = 1) -> None:
        """Count ``count`` records that were understood."""
        self.seen += count
        self._age(limit)

    def exceeded_by(self, offset: int, reason: str, limit: PoisonLimit) -> bool:
        """Count the bad record at ``offset``; or return True if it is one too many: then the partition stops in front of it."""
        if offset <= self.through:
            return False
        seen, bad = self.seen + 1, self.bad + 1
        if bad > limit.minimum and bad / seen > limit.share:
            self.stopped = f"{bad} of the last {seen} records are bad: {reason}"
            self.stopped_at = offset
            return True
        self.seen, self.bad = seen, bad
        self._age(limit)
        return False

    def resume(self, resume_id: str, through: int | None) -> None:
        """Let the partition run again, with a fresh count."""
        self.seen = self.bad = 0
        self.stopped, self.stopped_at = None, -1
        self.through = -1 if through is None else through
        self.resume_id = resume_id

    def _age(self, limit: PoisonLimit) -> None:
        """Halve both counts at the end of two windows: old records fade instead of falling out all at once."""
        if self.seen >= 2 * limit.window:
            self.seen //= 2
            self.bad //= 2
