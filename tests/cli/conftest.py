"""Commands run in this process."""

import sys

import pytest

from allometry.cli.app import main


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command in this process: (status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["allometry", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run
