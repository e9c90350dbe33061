"""Those who do the jobs, each a process of its own that is told what to do by one argument: a ``Task`` as JSON."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a contestant is to do, and where."""

    bootstrap: str
    job: str
    source: str
    """The topic to read, from its beginning."""
    outputs: Mapping[str, str]
    """The topics to write, by the job's name for each; they are there."""
    changelog: str
    """The topic of the rows; there for those who do not make their own."""
    group: str
    """The consumer group; new in each round, and the prefix of all that a contestant names itself."""
    partitions: int
    folder: Path
    """Its own, for stores."""
    compression: str
    """Of all that is written: a name that all clients know, or ``none``."""
    product_compression: str
    """The same as the product's setting names it, which may leave it to the size of each batch."""
    options: Mapping[str, str] = field(default_factory=dict)

    def to_argument(self) -> str:
        """Return it as one argument of a command."""
        return json.dumps(asdict(self) | {"folder": str(self.folder)})

    @classmethod
    def of_this_process(cls) -> "Task":
        """Return what this process was told."""
        told = json.loads(sys.argv[1])
        return cls(**told | {"folder": Path(told["folder"])})
