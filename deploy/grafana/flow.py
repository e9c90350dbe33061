"""Flow of statuses: what providers report, what it changes, and how it ends."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import (
    DESTINATION,
    LOOK,
    PROVIDER,
    Dimension,
    Query,
    Section,
    board,
    lines,
    number,
    pick,
    share,
    shares,
)

CHANGES = "mailstreams_status_changes_total"
ALL = pick(CHANGES, PROVIDER, DESTINATION)
EVENTS = pick("mailstreams_events_total", PROVIDER)
SILENT = pick("mailstreams_deliveries_without_word_total", PROVIDER)
WEBHOOKS = pick("mailstreams_webhook_accepted_total", PROVIDER)
TESTS = pick("mailstreams_webhook_tests_total", PROVIDER)
ACCEPTED = pick("mailstreams_webhook_last_accepted_timestamp_seconds", PROVIDER)


def dashboard() -> Dashboard:
    """Return "Flow of statuses"."""
    return board(
        "Flow of statuses",
        "mailstreams-flow",
        "What providers report, which statuses come of it, and how many of them are bad news.",
        [
            Section(
                "In the time shown",
                [
                    number(
                        "Statuses",
                        "Records written to `mail.status-changed`, by the status after the change.",
                        Query(f"sum by (status) (increase({ALL}[$__range]))", "{{status}}"),
                        width=16,
                        decimals=0,
                    ),
                    number(
                        "Times not believed",
                        "Events whose own time lay too far from when they were received: a clock is wrong.",
                        f"sum(increase({pick('mailstreams_clock_skew_events_total', PROVIDER)}[$__range]))",
                        steps=((None, "text"), (1, LOOK)),
                        alerts=("MailClockSkew",),
                        decimals=0,
                    ),
                    number(
                        "Forgotten",
                        "Deliveries whose time was over; their subscribers got a tombstone.",
                        "sum(increase(mailstreams_deliveries_expired_total[$__range]))",
                        decimals=0,
                    ),
                ],
            ),
            Section(
                "Statuses",
                [
                    lines(
                        "Changes by status",
                        "What subscribers of `mail.status-changed` see.",
                        Query(f"sum by (status) (rate({ALL}[$__rate_interval]))", "{{status}}"),
                        unit="cps",
                        stacked=True,
                    ),
                    lines(
                        "Changes by provider",
                        "A line that falls to 0 alone is a provider that is silent.",
                        Query(f"sum by (provider) (rate({ALL}[$__rate_interval]))", "{{provider}}"),
                        unit="cps",
                        alerts=("MailProviderSilent",),
                    ),
                    shares(
                        "Bounced, by provider",
                        "Of all deliveries that ended: bounced, delivered, dropped.",
                        Query(ended("bounced", by="provider"), "{{provider}}"),
                        alerts=("MailRefusedOrDropped",),
                    ),
                    shares(
                        "Bounced, by destination",
                        "A destination that refuses more than the others blocks us, or our list of addresses is bad.",
                        Query(ended("bounced", by="destination"), "{{destination}}"),
                        alerts=("MailRefusedOrDropped",),
                    ),
                    shares(
                        "Deferred, by destination",
                        "Changes to deferred, of all changes.",
                        Query(
                            share(
                                f"sum by (destination) (rate({changes('deferred')}[$__rate_interval]))",
                                f"sum by (destination) (rate({ALL}[$__rate_interval]))",
                            ),
                            "{{destination}}",
                        ),
                    ),
                    shares(
                        "Dropped, by provider",
                        "Not sent, because the address is on one of the account's lists.",
                        Query(ended("dropped", by="provider"), "{{provider}}"),
                        alerts=("MailRefusedOrDropped",),
                    ),
                ],
            ),
            Section(
                "Events",
                [
                    lines(
                        "Events by type",
                        "As the providers report them, in our words.",
                        Query(f"sum by (type) (rate({EVENTS}[$__rate_interval]))", "{{type}}"),
                        unit="cps",
                        stacked=True,
                    ),
                    lines(
                        "Events by what they changed",
                        "Duplicates are usual: providers repeat what we answered too late.",
                        Query(f"sum by (outcome) (rate({EVENTS}[$__rate_interval]))", "{{outcome}}"),
                        unit="cps",
                        stacked=True,
                    ),
                    lines(
                        "Sent, then silence",
                        "Deliveries of which nothing more was heard within 24 h after `sent`: their webhooks are not "
                        "sent, or do not reach us.",
                        Query(f"sum by (provider) (increase({SILENT}[1d]))", "{{provider}} in a day"),
                        alerts=("MailDeliveriesWithoutWord",),
                    ),
                    lines(
                        "Webhooks by account",
                        "Verified and written. A line that falls to 0 alone is an account that is silent, for which no "
                        "alert fires while others at the provider get theirs. Tests of ours are counted apart.",
                        Query(
                            f"sum by (provider, account) (rate({WEBHOOKS}[$__rate_interval]))",
                            "{{provider}} {{account}}",
                        ),
                        Query(f"sum(rate({TESTS}[$__rate_interval]))", "tests"),
                        unit="reqps",
                        alerts=("MailProviderSilent",),
                    ),
                    lines(
                        "Since the last webhook, by provider",
                        "How long ago a webhook was last verified and written, since the ingresses were started. Tests "
                        "of ours do not count.",
                        # An ingress to which none came yet reports 0, which is not a time.
                        Query(f"time() - max by (provider) ({ACCEPTED} > 0)", "{{provider}}"),
                        unit="s",
                        alerts=("MailProviderSilent",),
                    ),
                ],
            ),
        ],
        dimensions=(Dimension("provider", CHANGES), Dimension("destination", CHANGES)),
    )


def changes(status: str) -> str:
    """Return the selector of the changes to statuses (a regular expression)."""
    return pick(CHANGES, PROVIDER, DESTINATION, f'status=~"{status}"')


def ended(status: str, *, by: str) -> str:
    """Return the share that a status has of the deliveries that ended."""
    return share(
        f"sum by ({by}) (rate({changes(status)}[$__rate_interval]))",
        f"sum by ({by}) (rate({changes('bounced|delivered|dropped')}[$__rate_interval]))",
    )
