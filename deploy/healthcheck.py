"""Is what runs in this container alive? The image's HEALTHCHECK, for whichever of its commands was started.

It asks ``/livez`` of worker, ingress and history at their ports for operators, and is content with one that answers
200: an image has one check, and a container one process. The ports are the defaults of the settings, or what the
environment says; ports that stand in a settings file only it does not know. Containers that share a network
(``--network host``) want a check each, as in ``compose.yaml``.
"""

import http.client
import os
import sys
import urllib.request

PORTS = {
    "MAILSTREAMS_WEB__PORT": 19100,
    "MAILSTREAMS_INGRESS__ADMIN_PORT": 19102,
    "MAILSTREAMS_HISTORY__ADMIN_PORT": 19104,
}
_TIMEOUT_S = 4
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment is none for us


def alive(port: str) -> bool:
    """Tell whether a process of ours answers at a port of this container, and says that it is live."""
    try:
        with _DIRECTLY.open(f"http://127.0.0.1:{port}/livez", timeout=_TIMEOUT_S):
            return True
    except (OSError, http.client.HTTPException):  # nobody is there, or another code than 200
        return False


if __name__ == "__main__":
    sys.exit(not any(alive(os.environ.get(variable, str(default))) for variable, default in PORTS.items()))
