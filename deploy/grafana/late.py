"""Is mail late? Answered by the objective.

The objective counts each message once, at its delivery or at its deadline, whichever comes first. So waiting mail is
counted, which a histogram of delivery times cannot do: mail that is not delivered never enters it.
"""

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
    board,
    heat_map,
    known,
    lines,
    number,
    pick,
    quantile,
    share,
)
from deploy.grafana.thresholds import figure, threshold

OBJECTIVE = threshold("objective_met_share")
PAGE, TICKET = (
    min(threshold(name), figure("mailstreams:late_share:most") / max(1 - OBJECTIVE, 1e-9))
    for name in ("budget_burn_fast", "budget_burn_slow")
)
"""Burn rates of the critical alert and of the warning: with a low objective they are lower, as in the rules."""

ALL = pick("mailstreams_objective_total", PROVIDER)
MET = pick("mailstreams_objective_total", PROVIDER, 'outcome="met"')
MISSED = pick("mailstreams_objective_total", PROVIDER, 'outcome="missed"')
ALLOWED = "(1 - scalar(mailstreams:objective_met_share:threshold))"
"""The share of messages that may be late."""
TRIED = 'level!="overdue"'
DELIVERY = "mailstreams_time_to_deliver_seconds"
BURN_ALERTS = ("MailTimeToDeliverBudgetBurn",)


def dashboard() -> Dashboard:
    """Return "Is mail late?"."""
    return board(
        "Is mail late?",
        "mailstreams-late",
        "Whether mail is delivered in time, by provider and destination.",
        [
            Section(
                "Now",
                [
                    number(
                        "Delivered in time",
                        f"The share of messages that met the objective, in the time shown. Wanted: {OBJECTIVE:.0%}.",
                        share(f"sum(increase({MET}[$__range]))", f"sum(increase({ALL}[$__range]))"),
                        unit="percentunit",
                        steps=((None, ACT), (OBJECTIVE, GOOD)),
                        alerts=BURN_ALERTS,
                        absent="no mail",
                    ),
                    number(
                        "Budget left, 30 days",
                        "What remains of the messages that may be late in 30 days. Below 0: the objective is missed.",
                        f"1 - ({share(f'sum(increase({MISSED}[30d]))', f'sum(increase({ALL}[30d]))')}) / {ALLOWED}",
                        unit="percentunit",
                        steps=((None, ACT), (0, LOOK), (0.25, GOOD)),
                        alerts=BURN_ALERTS,
                        absent="no mail",
                    ),
                    number(
                        "Burn rate, 1 h",
                        "How many times too fast the budget of the worst provider is used up; at 1 it just lasts.",
                        f"max({burned('1h')})",
                        steps=((None, GOOD), (TICKET, LOOK), (PAGE, ACT)),
                        alerts=BURN_ALERTS,
                        absent="no mail",
                    ),
                    number(
                        "Deferred now",
                        "Deliveries that the receiving side puts off at the moment; most of them pass by themselves.",
                        known(f"sum({pick('mailstreams_deferred_age_seconds_gcount', PROVIDER, DESTINATION)})"),
                        absent="unknown",
                    ),
                    number(
                        "Stuck now",
                        "Of those, the ones that were told on `mail.deferral-alerts` and are still tried. Go on at the "
                        "dashboard Deferrals.",
                        known(f"sum({pick('mailstreams_deferred_stuck', PROVIDER, DESTINATION, TRIED)})"),
                        steps=((None, GOOD), (1, LOOK), (threshold("deferrals_stuck"), ACT)),
                        alerts=("MailDeferralsStuck",),
                        absent="unknown",
                    ),
                    number(
                        "Sent, then silence",
                        "Deliveries of which nothing more was heard within 24 h after `sent`, in the time shown.",
                        f"sum(increase({pick('mailstreams_deliveries_without_word_total', PROVIDER)}[$__range]))",
                        steps=((None, "text"), (1, LOOK)),
                        alerts=("MailDeliveriesWithoutWord",),
                        decimals=0,
                    ),
                ],
            ),
            Section(
                "Objective",
                [
                    lines(
                        "Burn rate, fast",
                        "Somebody is called when both windows are above the line: it matters, and it goes on.",
                        Query(burned("1h"), "{{provider}} 1 h"),
                        Query(burned("5m"), "{{provider}} 5 min"),
                        Query(f"mailstreams:late_share_fast:limit / {ALLOWED}", "calls", limit=True),
                        alerts=BURN_ALERTS,
                    ),
                    lines(
                        "Burn rate, slow",
                        "Somebody has to look when both windows are above the line.",
                        Query(burned("6h"), "{{provider}} 6 h"),
                        Query(burned("30m"), "{{provider}} 30 min"),
                        Query(f"mailstreams:late_share_slow:limit / {ALLOWED}", "asks for a look", limit=True),
                        alerts=BURN_ALERTS,
                    ),
                    lines(
                        "Messages in time and late",
                        "Each counts once: at its delivery, or when its time is over.",
                        Query(f"sum by (outcome) (rate({ALL}[$__rate_interval]))", "{{outcome}}"),
                        unit="cps",
                        stacked=True,
                    ),
                    lines(
                        "Late by provider",
                        "The share of the last hour's messages that missed the objective.",
                        Query(missed("1h"), "{{provider}}"),
                        Query("1 - mailstreams:objective_met_share:threshold", "allowed", limit=True),
                        unit="percentunit",
                        alerts=BURN_ALERTS,
                    ),
                ],
            ),
            Section(
                "Time to deliver: of delivered mail only, so read it with the objective",
                [
                    lines(
                        "Quantiles by provider",
                        "From `sent` to `delivered`, for a half, 95 % and 99 % of the deliveries.",
                        *(
                            Query(
                                quantile(q, DELIVERY, PROVIDER, DESTINATION, by="provider"),
                                f"{{{{provider}}}} p{q * 100:g}",
                            )
                            for q in (0.5, 0.95, 0.99)
                        ),
                        unit="s",
                        step="5m",
                    ),
                    lines(
                        "95 % by destination",
                        "The time within which 95 % of the deliveries to a destination were done.",
                        Query(quantile(0.95, DELIVERY, PROVIDER, DESTINATION, by="destination"), "{{destination}}"),
                        unit="s",
                        step="5m",
                    ),
                    heat_map(
                        "Spread",
                        "How many deliveries took how long.",
                        f"sum by (le) (increase({pick(f'{DELIVERY}_bucket', PROVIDER, DESTINATION)}[$__rate_interval]))",
                        width=24,
                        step="5m",
                    ),
                ],
            ),
        ],
        dimensions=(
            Dimension("provider", "mailstreams_objective_total"),
            Dimension("destination", f"{DELIVERY}_count"),
        ),
        since="now-24h",
    )


def missed(window: str) -> str:
    """Return the share of messages that missed the objective, by provider, as in the alerts; no value without messages."""
    return f"({pick(f'provider:mailstreams_objective_missed:share{window}', PROVIDER)} >= 0)"


def burned(window: str) -> str:
    """Return the burn rate by provider: at 1 the budget of late mail just lasts."""
    return f"{missed(window)} / {ALLOWED}"
