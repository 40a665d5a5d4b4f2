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


@pytest.fixture
def refused(cli):
    """Run a command that must be refused: one line, status 2, nothing on standard output."""

    def run(*arguments):
        status, out, err = cli(*arguments)
        assert (status, out) == (2, ""), (out, err)
        lines = [line for line in err.splitlines() if line.startswith("allometry:")]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        return lines[0]

    return run
