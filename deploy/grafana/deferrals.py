"""Deferrals: which deliveries are deferred, where, how long, why, and until when the provider tries again.

The table in the middle is the matrix of Postfix' ``qshape``: destination by age, in minutes that double. Large numbers
on the left of a row are a destination that has just begun to defer; large numbers on the right are stuck mail.
"""

from itertools import pairwise

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import (
    ACT,
    DESTINATION,
    GOOD,
    LOOK,
    PROVIDER,
    Dimension,
    Query,
    Section,
    bars,
    board,
    heat_map,
    known,
    lines,
    number,
    pick,
    table,
)
from deploy.grafana.thresholds import threshold

BOUNDS = tuple(300 * 2**power for power in range(9))
"""The upper bounds of the buckets of age, in seconds: 5, 10, 20, ..., 1280 minutes."""

AGE = "mailstreams_deferred_age_seconds"
OLDEST = pick("provider_destination:mailstreams_deferred_oldest:age_seconds", PROVIDER, DESTINATION)
USED = pick("provider_destination:mailstreams_deferred_oldest:window_used", PROVIDER, DESTINATION)
SHARE = pick("provider_destination:mailstreams_deferred:share10m", PROVIDER, DESTINATION)
WINDOW = pick("mailstreams_retry_window_seconds", PROVIDER)
STUCK = pick("mailstreams_deferred_stuck", PROVIDER, DESTINATION)
WAITING = f"sum({pick(f'{AGE}_gcount', PROVIDER, DESTINATION)})"
GIVEN_UP = 'level="overdue"'
OVERDUE = f"sum({pick('mailstreams_deferred_stuck', PROVIDER, DESTINATION, GIVEN_UP)})"
DEFERRALS = pick("mailstreams_deferrals_total", PROVIDER, DESTINATION)
DELIVERED = pick("mailstreams_arrivals_total", PROVIDER, DESTINATION)
TOLD = pick("mailstreams_deferral_alerts_total", PROVIDER)

MANY = threshold("deferrals_stuck")
OLD = threshold("deferral_oldest_seconds")


def dashboard() -> Dashboard:
    """Return "Deferrals"."""
    return board(
        "Deferrals",
        "mailstreams-deferrals",
        "What is deferred now and what became of it: by destination, age, level and reason.",
        [
            Section(
                "Now",
                [
                    number(
                        "Deferred",
                        "Deliveries that wait. `mailstreams deferrals` lists them.",
                        known(WAITING),
                        absent="unknown",
                    ),
                    number(
                        "Stuck, by level",
                        "The highest level that was told of each: raised (too old), escalated (for half a day, or near "
                        "the end of the retry window), overdue (past it, without a final word).",
                        Query(known(f"sum by (level) ({STUCK})"), "{{level}}"),
                        steps=((None, GOOD), (1, LOOK), (MANY, ACT)),
                        alerts=("MailDeferralsStuck", "MailDeferralsOverdue"),
                        absent="unknown",
                        width=8,
                    ),
                    number(
                        "Oldest",
                        "How long the oldest one waits that its provider still tries, of those whose age is known: not of "
                        "one whose end may be in a stopped partition. Unknown where that is all of them.",
                        f"{known(f'max({OLDEST})')} unless on () {WAITING} > {OVERDUE}",
                        unit="s",
                        steps=((None, GOOD), (OLD / 4, LOOK), (OLD, ACT)),
                        alerts=("MailDeferralOldestAge",),
                        absent="unknown",
                    ),
                    number(
                        "Alerts told",
                        "Records written to `mail.deferral-alerts` in the time shown, by level.",
                        Query(f"sum by (level) (increase({TOLD}[$__range]))", "{{level}}"),
                        width=8,
                        decimals=0,
                    ),
                ],
            ),
            Section(
                "Where and how long",
                [
                    table(
                        "qshape: destination by age in minutes",
                        "How many wait how long, as Postfix' qshape prints it.",
                        qshape(),
                        steps=((None, "transparent"), (1, LOOK), (MANY, ACT)),
                        alerts=("MailDeferralsStuck", "MailDestinationBlocked"),
                    ),
                    lines(
                        "Oldest by destination, and the provider's retry window",
                        "Whatever reaches the dashed line is given up by the provider, unless the account has another window: send it another way before.",
                        Query(OLDEST, "{{provider}} to {{destination}}"),
                        Query(f"max by (provider) ({WINDOW})", "{{provider}} gives up", limit=True),
                        unit="s",
                        alerts=("MailDeferralOldestAge", "MailDeferralNearExpiry"),
                    ),
                    heat_map(
                        "Age of what waits",
                        "A band that climbs is mail that nobody takes; one that stays low comes and goes.",
                        f"sum by (le) ({pick(f'{AGE}_bucket', PROVIDER, DESTINATION)})",
                    ),
                    bars(
                        "Share of the retry window that is used up",
                        "By the oldest one of each provider and destination; the windows of single accounts do not count.",
                        Query(
                            USED,
                            "{{provider}} to {{destination}}",
                        ),
                        steps=((None, GOOD), (0.5, LOOK), (threshold("deferral_window_used"), ACT)),
                        alerts=("MailDeferralNearExpiry",),
                    ),
                    lines(
                        "Stuck by level",
                        "It grows from below: what is raised today is escalated tomorrow.",
                        Query(f"sum by (level) ({STUCK})", "{{level}}"),
                        alerts=("MailDeferralsStuck", "MailDeferralsOverdue"),
                        stacked=True,
                    ),
                ],
            ),
            Section(
                "Why",
                [
                    lines(
                        "Deferrals by reason",
                        "What the receiving servers said, in classes. Preemptive is the provider's own throttling.",
                        Query(f"sum by (reason_class) (rate({DEFERRALS}[$__rate_interval]))", "{{reason_class}}"),
                        unit="cps",
                        stacked=True,
                    ),
                    lines(
                        "Deferred share of what was answered",
                        "Of ten minutes' deferrals, deliveries and bounces; one deferral counts once, however often "
                        "it was tried.",
                        Query(f"{SHARE} >= 0", "{{provider}} to {{destination}}"),
                        Query("mailstreams:deferral_share:threshold", "limit", limit=True),
                        unit="percentunit",
                        alerts=("MailDeferralShareSpike",),
                    ),
                    table(
                        "Deferrals and deliveries in 30 minutes",
                        "Many deferrals beside no delivery: this destination blocks us.",
                        {
                            "deferrals": f"{in_half_an_hour(DEFERRALS)} > 0",
                            "deliveries": f"{in_half_an_hour(DELIVERED)} and {in_half_an_hour(DEFERRALS)} > 0",
                        },
                        alerts=("MailDestinationBlocked",),
                        width=12,
                    ),
                    lines(
                        "Alerts told, by level",
                        "Records written to `mail.deferral-alerts`.",
                        Query(f"sum by (level) (increase({TOLD}[$__rate_interval]))", "{{level}}"),
                        step="5m",
                    ),
                ],
            ),
            Section(
                "Paged",
                [
                    table(
                        "Alerts that fire",
                        "What Prometheus has handed to Alertmanager; each has a runbook.",
                        {"firing": 'ALERTS{alertname=~"Mail.*", alertstate="firing"}'},
                        hidden=("__name__", "alertstate", "component", "instance", "job"),
                    ),
                ],
            ),
        ],
        dimensions=(
            Dimension("provider", "mailstreams_retry_window_seconds"),
            Dimension("destination", "mailstreams_status_changes_total"),
        ),
    )


def in_half_an_hour(counter: str) -> str:
    """Return how much a counter grew, by provider and destination."""
    return f"sum by (provider, destination) (increase({counter}[30m]))"


def qshape() -> dict[str, str]:
    """Return the columns of the table: the total, then one per bucket. Prometheus' buckets are cumulative."""
    count = f"sum by (destination) ({pick(f'{AGE}_gcount', PROVIDER, DESTINATION)})"
    columns = {"T": count, f"{BOUNDS[0] // 60}": up_to(BOUNDS[0])}
    for below, bound in pairwise(BOUNDS):
        columns[f"{bound // 60}"] = f"{up_to(bound)} - {up_to(below)}"
    columns[f"{BOUNDS[-1] // 60}+"] = f"{count} - {up_to(BOUNDS[-1])}"
    return columns


def up_to(bound: int) -> str:
    """Return the query for deferrals up to this age; clients write a bound as ``300.0`` or as ``300``."""
    bucket = pick(f"{AGE}_bucket", PROVIDER, DESTINATION, f'le=~"{bound}([.]0)?"')
    return f"sum by (destination) ({bucket})"
