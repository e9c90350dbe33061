"""The deferral policy of each account at each provider, as the settings say it.

The rule: the settings are read in one way, for the worker, which alerts by these
policies, and for the command line, which shows the same deadlines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from streams.domain.deferrals import Policy
from streams.domain.status import SECOND
from streams.providers import PROVIDERS, RETRY_WINDOW_S
from streams.settings import Deferrals, Settings

Held = Callable[[str, int], bool]
"""Whether a provider is on hold in this partition of a stage: an event may be missing, so silence proves nothing."""
LOOK_AGAIN_US = 30 * SECOND
"""While a provider is on hold (one of its raw partitions is stopped), what is due is looked at again after so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policy of each account at each provider."""

    default: Mapping[str, Policy]
    """By provider."""
    other: Policy
    """For a provider that is not built in."""
    of_account: Mapping[tuple[str, str], Policy] = field(default_factory=dict)
    """By (account, provider), where it differs."""

    def __call__(self, account: str, provider: str) -> Policy:
        """Return the policy that holds for a delivery."""
        return self.of_account.get((account, provider)) or self.default.get(provider, self.other)

    @property
    def digest(self) -> bytes:
        """A hash of the policies: shows whether the deadlines in an index were computed with these."""
        return blake2b(repr((self.default, self.other, self.of_account)).encode(), digest_size=16).digest()


def policies_of(settings: Settings) -> Policies:
    """Return the policies that the settings ask for."""
    return Policies(
        default={name: _policy(settings.deferrals, provider.retry_window_s) for name, provider in PROVIDERS.items()},
        other=_policy(settings.deferrals, RETRY_WINDOW_S),
        of_account={
            (name, provider): _policy(overrides.over(settings.deferrals), PROVIDERS[provider].retry_window_s)
            for name, account in settings.accounts.items()
            for provider, overrides in account.deferrals.items()
        },
    )


def _policy(chosen: Deferrals, retry_window_s: float) -> Policy:
    window_s = chosen.retry_window_s or retry_window_s
    return Policy(
        warn_after=int(chosen.warn_after_s * SECOND),
        escalate_after=None if chosen.escalate_after_s is None else int(chosen.escalate_after_s * SECOND),
        retry_window=int(window_s * SECOND),
        overdue_slack=int(chosen.overdue_slack_s * SECOND),
    )
