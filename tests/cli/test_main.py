"""The command's front door: help and usage errors in one line, at once, without torch."""

import subprocess
import sys
import time

import pytest
from tiny_run import COMMAND

import birdjepa
from birdjepa import cli
from birdjepa.core.errors import UserError


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--version"], 0), (["pretrian"], 2), ([], 0)])
def test_help_and_usage_errors_are_quick_and_never_import_torch(arguments, code):
    script = f"import sys; from birdjepa.cli import main; code = main({arguments!r}); assert 'torch' not in sys.modules"
    script += "; sys.exit(code)"
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - began)
        if seconds[-1] < 0.5:
            break
    assert done.returncode == code, done.stderr
    assert min(seconds) < 0.5


def test_help_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in cli.VERBS)
    assert "75" in shown
    assert max(map(len, shown.splitlines())) <= 120
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"birdjepa {birdjepa.__version__}\n"


def test_an_unknown_verb_is_one_line(capsys):
    assert cli.main(["pretrian"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("birdjepa: 'pretrian' is not a verb; there are pretrain, ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_answers_an_unknown_option_in_one_line(verb, capsys):
    arguments = {"pretrain": ["lejepa"], "data": ["scan", "x"], "embed": ["x", "y"], "probe": ["x"], "report": ["x"]}
    assert cli.main([verb, *arguments.get(verb, []), "--no-such-option", "1"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("birdjepa: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize(("error", "code"), [(UserError("sorry"), 1), (KeyboardInterrupt(), 1), (BrokenPipeError(), 1)])
def test_errors_become_exit_codes(monkeypatch, capsys, error, code):
    from birdjepa.cli import doctor

    def fail(argv):
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    stdout = sys.stdout
    try:
        assert cli.main(["doctor"]) == code
    finally:
        if sys.stdout is not stdout:
            sys.stdout.close()
            sys.stdout = stdout
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    from birdjepa.cli import doctor

    monkeypatch.setattr(doctor, "run", lambda argv: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_the_script_is_installed():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("birdjepa ")
