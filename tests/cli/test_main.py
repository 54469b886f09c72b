"""The command's front door: help and usage errors in one line, at once, without torch."""

import contextlib
import errno
import functools
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_run import COMMAND

import birdjepa
from birdjepa import cli
from birdjepa.core.errors import UserError
from birdjepa.train.signals import StopSignal


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


@pytest.mark.parametrize("error", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    from birdjepa.cli import doctor

    monkeypatch.setattr(doctor, "run", functools.partial(raise_it, error))
    with pytest.raises(type(error)):
        cli.main(["doctor"])


def raise_it(error, argv):
    raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_is_told_in_one_line(monkeypatch, capsys, number):
    from birdjepa.cli import doctor

    monkeypatch.setattr(doctor, "run", functools.partial(raise_it, OSError(number, os.strerror(number), "runs/x")))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == f"birdjepa: runs/x: {os.strerror(number)}\n"


def test_a_log_on_a_full_disk_ends_no_run(monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        cli.tell("step 1")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_verbs_that_train_hear_a_signal_while_they_import(monkeypatch, name):
    """Whatever comes before the loop asks is kept for it; other verbs end as the system wants."""
    heard = []

    class Verb:
        @staticmethod
        def run(argv):
            with StopSignal() as inside:
                heard.append(inside.received)
            return 0

    def slow_import(module):
        os.kill(os.getpid(), name)
        return Verb

    before = signal.getsignal(name)
    monkeypatch.setattr(cli.importlib, "import_module", slow_import)
    for verb in cli.TRAIN:
        assert cli.main([verb]) == 0
    assert heard == [name] * len(cli.TRAIN)
    assert signal.getsignal(name) == before
    assert set(cli.TRAIN) <= set(cli.VERBS)


def test_the_script_is_installed():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("birdjepa ")
