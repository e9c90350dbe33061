"""The contestants: each is a separate process and gets one argument, a ``Task`` as JSON."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a contestant has to do, and where."""

    bootstrap: str
    job: str
    source: str
    """The topic to read, from its beginning."""
    outputs: Mapping[str, str]
    """The topics to write, by the job's name for each; they exist already."""
    changelog: str
    """The topic of the rows; it exists already, except for contestants that create their own."""
    group: str
    """The consumer group; new in each round, and the prefix of all names that a contestant chooses."""
    partitions: int
    folder: Path
    """The contestant's own folder, for stores."""
    compression: str
    """The compression of all records: a name that all clients know, or ``none``."""
    product_compression: str
    """The same as a value of the product's setting; with ``auto`` it depends on the size of each batch."""
    options: Mapping[str, str] = field(default_factory=dict)

    def to_argument(self) -> str:
        """Return the task as one argument of a command."""
        return json.dumps(asdict(self) | {"folder": str(self.folder)})

    @classmethod
    def of_this_process(cls) -> "Task":
        """Return the task of this process, from its arguments."""
        given = json.loads(sys.argv[1])
        return cls(**given | {"folder": Path(given["folder"])})
