"""Reloads the certificate of the public port when its files change: such certificates are renewed every few weeks.

The rule: a new certificate is used as soon as it and its key fit together. Until then the old one
stays in use. Open connections keep the certificate that they began with.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509

from streams.settings import SettingsError

logger = logging.getLogger(__name__)

LOOK_S: Final = 60.0


class Renewal:
    """Checks the files of the certificate once a minute.

    Args:
        certfile: the certificate and its chain; ``None``: without TLS, and nothing is done.
        keyfile: its key, if that is not in the same file.
        load: returns a context with both, or raises SettingsError.
        use: called with a context for new connections.
        set_expiry: called with the time, in Unix seconds, at which the certificate in use expires.
    """

    def __init__(
        self,
        certfile: Path | None,
        keyfile: Path | None,
        *,
        load: Callable[[], ssl.SSLContext | None],
        use: Callable[[ssl.SSLContext | None], None],
        set_expiry: Callable[[float], None],
    ) -> None:
        self._certfile = certfile
        self._files = [path for path in (certfile, keyfile) if path is not None]
        self._load = load
        self._use = use
        self._set_expiry = set_expiry
        self._seen = self._versions()
        self._report_expiry()

    async def run(self) -> None:
        """Check the files until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Use the files if they have changed. A broken certificate is logged, and tried again after the next change."""
        versions = self._versions()
        if versions == self._seen:
            return
        self._seen = versions
        try:
            context = self._load()
        except SettingsError as error:
            logger.error("the new certificate cannot be used, and the old one stays: %s", error)  # noqa: TRY400 - one line says it all
            return
        self._use(context)
        logger.info("the certificate has changed, and the new one is used from now on")
        self._report_expiry()

    def _versions(self) -> list[tuple[int, ...] | None]:
        return [_version(path) for path in self._files]

    def _report_expiry(self) -> None:
        if self._certfile is None:
            return
        try:
            certificate = x509.load_pem_x509_certificate(self._certfile.read_bytes())
        except (OSError, ValueError) as error:
            logger.warning("cannot read when the certificate expires: %s", error)
            return
        self._set_expiry(certificate.not_valid_after_utc.timestamp())


def _version(path: Path) -> tuple[int, ...] | None:
    """Return values that change with the file, also when a link points to another file."""
    try:
        found = path.stat()
    except OSError:
        return None
    # the ctime, too: a file that could not be read may be allowed to later
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
