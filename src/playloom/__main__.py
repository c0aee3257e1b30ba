"""`python -m playloom`: the program, where the command `playloom` is not on the path."""

from __future__ import annotations

from playloom.cli.app import main

if __name__ == "__main__":
    main()
