"""What the documentation says, taken out of its Markdown: links, code, tables.

The checks on it return the false things that they found, so that each can be shown a false thing, too.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from deploy.local import ROOT
from streams.cli import cli

_SKIPPED = {".venv", "var", "node_modules", ".git"}
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"^(?:\$ )?(?:\S*/)?mailstreams\s+(.*)$")
_MAKE = re.compile(r"^(?:\$ )?make\s+(.*)$")
_MAKE_TARGET = re.compile(r"[a-z][a-z-]*")


@dataclass(frozen=True)
class Page:
    """A Markdown file; ``path`` says against what its links count."""

    path: Path
    text: str

    @property
    def prose(self) -> str:
        """The text without blocks of code."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """Return the blocks of code in a language; ``""`` for those without."""
        return [code for name, code in _FENCE.findall(self.text) if name == language]

    def code(self) -> Iterator[str]:
        """Yield every line of unnamed blocks of code and every span of it."""
        for block in self.blocks(""):
            yield from (line.strip() for line in block.splitlines())
        yield from _SPAN.findall(self.prose)

    def table(self, heading: str) -> list[list[str]]:
        """Return the cells of the first table after a heading, without its head."""
        after = self.text.split(f" {heading}\n", 1)[1]
        lines = after.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("|"))
        rows = []
        for line in lines[start:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        return rows[2:]

    def anchors(self) -> set[str]:
        """Return the anchors of the headings, as the forges make them."""
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(self.prose)}


def read(name: str) -> Page:
    path = ROOT / name
    return Page(path, path.read_text())


def all_pages() -> list[Page]:
    """Return every Markdown file of the repository."""
    return [
        Page(path, path.read_text())
        for path in sorted(ROOT.rglob("*.md"))
        if not _SKIPPED & set(path.relative_to(ROOT).parts)
        and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]


def broken_links(page: Page) -> list[str]:
    """Return the links into the repository that lead nowhere."""
    broken = []
    for link in _LINK.findall(page.prose):
        if re.match(r"[a-z]+:", link):
            continue  # another site: the tests run without a network
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        anchors = Page(target, target.read_text()).anchors() if anchor and target.is_file() else {anchor}
        if not target.exists() or anchor not in anchors:
            broken.append(link)
    return broken


def commands(pages: Iterable[Page]) -> list[str]:
    """Return what is written after ``mailstreams`` in code."""
    return [match[1] for page in pages for line in page.code() if (match := _COMMAND.match(line))]


def wrong_use(command: str) -> str | None:
    """Say what the command line does not know of a documented command; None when it knows all."""
    try:
        words = shlex.split(command)
    except ValueError:
        return f"{command}: not a command"
    here: click.Command = cli
    context = click.Context(cli)
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            options = {name: each for each in here.params for name in (*each.opts, *each.secondary_opts)}
            name, assigned, _ = word.partition("=")
            if name not in {*options, "--help", "-h"}:
                return f"{command}: no option {word}"
            option = options.get(name)
            if isinstance(option, click.Option) and not (assigned or option.is_flag):
                del words[:1]  # its value
        elif isinstance(here, click.Group):
            name = word.partition("|")[0]
            found = here.get_command(context, name)
            if found is None:
                return f"{command}: no command {word}"
            here = found
        # else: an argument
    return None


def make_words(pages: Iterable[Page]) -> list[str]:
    """Return the targets, and the variables as ``NAME=``, that are written after ``make`` in code."""
    words: list[str] = []
    for page in pages:
        for line in page.code():
            if match := _MAKE.match(line):
                for word in shlex.split(match[1]):
                    name, assigned, _ = word.partition("=")
                    if assigned or _MAKE_TARGET.fullmatch(word):
                        words.append(name + assigned)
    return words


def unknown(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the words that are not known, each once."""
    return sorted(set(words) - set(known))
