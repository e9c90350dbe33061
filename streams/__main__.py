"""``python -m streams`` is ``mailstreams``."""

from streams.cli import main

if __name__ == "__main__":
    main()
