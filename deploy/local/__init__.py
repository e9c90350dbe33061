"""The system on one machine: the code behind ``make run``, ``make smoke`` and the tests' broker.

1. ``jars``        Kafka's jars, resolved once by Maven
2. ``ports``       free ports, outside the range that the system uses for outgoing connections
3. ``processes``   processes that we started, and no others
4. ``broker``      the embedded Kafka broker
5. ``supervisor``  keeps a command running
6. ``watchers``    Prometheus and Alertmanager, with the configuration of ``deploy``
7. ``stack``       a cluster, its topics and a supervised worker, by the public command line
8. ``demo``        the provider payloads of ``deploy/demo`` and their expected results
9. ``run``, ``smoke``  the two commands

Of the package ``streams`` only the command line is used, as any operator would use it.
"""

from pathlib import Path

__all__ = ["ROOT", "LocalError"]

ROOT = Path(__file__).resolve().parents[2]


class LocalError(Exception):
    """Something on this machine prevents it; the text is one line for a person and says what to do."""
