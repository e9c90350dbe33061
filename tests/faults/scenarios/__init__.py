"""The faults, each as a scenario with a name: what is done to a running system. The oracle says what must hold.

A scenario gets an open ``World``, does its harm while workers work, and returns;
then everything comes to rest and is judged (``play``). What a scenario itself finds
missing, it says by ``world.expect``. One file a kind of fault; a scenario is a
function that enters itself by ``@scenario``, and a new file is named below.
"""

from importlib import import_module

from tests.faults.scenarios.registry import SCENARIOS, Scenario, Scene, play

__all__ = ["SCENARIOS", "Scenario", "Scene", "play"]

for _file in (  # in the order in which they are played
    "processes",
    "zombies",
    "brokers",
    "clusters",
    "network",
    "disks_and_stores",
    "lost_topics",
    "inputs",
):
    import_module(f"{__name__}.{_file}")
