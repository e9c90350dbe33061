"""Who runs a recipient's mailbox, as a closed set of names: the label of metrics, the row of ``qshape``.

Mail is late at a mailbox provider, not at a domain: hotmail.fr and outlook.com
are one queue. Only domains that a provider gives to the public are listed. A
company's own domain that is hosted at Google or Microsoft is ``other``: only an
MX lookup could tell, and nothing here asks the network.

Where the lists come from. Gmail: Google's "Email sender guidelines". Mail.ru:
VK's announcement of xmail.ru (2023), which names the others. Apple, GMX and
Orange: the domains that smtp.codes and bentonow.com list with their error codes.
Microsoft and Yahoo: SendGrid's page on Yahoo, and domains of which others have
looked up the MX records, as Spam Resource's "MAGY" list does. Yahoo also runs
the mail of AOL, AT&T, Comcast, Cox, Frontier, Rogers, Sky and Verizon, but not
yahoo.co.jp. The other rows hold what these providers are known to offer at
sign-up. Before you rely on a row, check it on its provider's own pages and with
an MX lookup.

Brands that a provider offers under many countries' domains are in ``_BRANDS``:
they match any country, so that hotmail.at needs no entry of its own.

To add a destination, add a row to ``_DOMAINS``; each name multiplies the series
of the metrics. A name is never changed: dashboards and alerts filter on it. To
add a domain, add it to its row.
"""

from functools import lru_cache

OTHER = "other"
"""Every domain that no row names."""

_DOMAINS: dict[str, str] = {
    "gmail": "gmail.com googlemail.com",
    "microsoft": "hotmail.com live.com msn.com outlook.com passport.com webtv.net windowslive.com",
    "yahoo": (
        "yahoo.com myyahoo.com ymail.com rocketmail.com y7mail.com geocities.com kimo.com"
        " aol.com aim.com compuserve.com cs.com love.com netscape.net wow.com"
        " att.net ameritech.net bellsouth.net flash.net nvbell.net pacbell.net prodigy.net sbcglobal.net snet.net swbell.net"
        " verizon.net bellatlantic.net gte.net comcast.net cox.net frontier.com frontiernet.net rogers.com sky.com"
    ),
    "apple": "icloud.com me.com mac.com privaterelay.appleid.com",
    "gmx": "gmx.com gmx.net gmx.de gmx.org gmx.info gmx.biz mail.com",
    "web_de": "web.de email.de",
    "t_online": "t-online.de magenta.de",
    "freenet": "freenet.de",
    "proton": "proton.me protonmail.com protonmail.ch pm.me",
    "zoho": "zoho.com zohomail.com zoho.eu zohomail.eu zoho.in zohomail.in",
    "orange": "orange.fr wanadoo.fr voila.fr",
    "free_fr": "free.fr freesbee.fr libertysurf.fr aliceadsl.fr",
    "laposte": "laposte.net",
    "sfr": "sfr.fr neuf.fr cegetel.net club-internet.fr numericable.fr",
    "libero": "libero.it virgilio.it iol.it inwind.it blu.it giallo.it",
    "mail_ru": "mail.ru bk.ru inbox.ru list.ru internet.ru xmail.ru",
    "yandex": "yandex.ru yandex.com ya.ru narod.ru",
    "qq": "qq.com foxmail.com",
    "netease": "163.com 126.com yeah.net 188.com vip.163.com vip.126.com",
    "naver": "naver.com",
    "yahoo_japan": "yahoo.co.jp yahoo.ne.jp ybb.ne.jp ymail.ne.jp",
    "seznam": "seznam.cz email.cz post.cz spoluzaci.cz",
    "wp_pl": "wp.pl o2.pl tlen.pl",
}
_BRANDS: dict[str, str] = {
    "hotmail": "microsoft",
    "live": "microsoft",
    "outlook": "microsoft",
    "windowslive": "microsoft",
    "yahoo": "yahoo",
    "aol": "yahoo",
    "gmx": "gmx",
    "yandex": "yandex",
}

DESTINATIONS: tuple[str, ...] = (*_DOMAINS, OTHER)
"""All names; the last one is ``OTHER``."""

_BY_DOMAIN: dict[str, str] = {domain: name for name, domains in _DOMAINS.items() for domain in domains.split()}
_LONGEST = 255
"""Octets of a domain name (RFC 5321, 4.5.3.1.2). A longer text is none, and is not cached."""


def destination_of(address: str) -> str:
    """Return who runs the mailbox of an address, one of ``DESTINATIONS``; ``OTHER`` if it is none. Never raises."""
    _, at, domain = address.rpartition("@")
    return _of_domain(domain) if at and len(domain) <= _LONGEST else OTHER


@lru_cache(maxsize=4_096)  # as the address has it: nearly all mail goes to few domains, each written in one way
def _of_domain(domain: str) -> str:
    domain = domain.lower().removesuffix(".")
    name = _BY_DOMAIN.get(domain)
    if name is not None:
        return name
    brand, _, suffix = domain.partition(".")
    return _BRANDS.get(brand, OTHER) if _is_country(suffix) else OTHER


def _is_country(suffix: str) -> bool:
    """Return whether it is a country's top-level domain, or its domain for companies: fr, co.uk, com.br."""
    below, country = suffix[:-2], suffix[-2:]
    return below in {"", "co.", "com."} and len(country) == 2 and country.isalpha()  # noqa: PLR2004 ISO 3166 alpha-2
