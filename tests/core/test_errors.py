"""Errors survive the way between processes, and carry the exit codes that scripts rely on."""

import pickle

from birdjepa.core import errors


def test_exit_codes():
    assert (errors.EXIT_DONE, errors.EXIT_FAILED, errors.EXIT_USAGE) == (0, 1, 2)
    assert (errors.EXIT_PARTIAL, errors.EXIT_REQUEUE) == (3, 75)
    assert errors.UserError("x").exit_code == 1
    assert errors.UsageError("x").exit_code == errors.MissingExtraError("wandb", "wandb").exit_code == 2
    assert errors.Interrupted("x").exit_code == 75


def test_input_errors_pickle_and_name_the_place():
    for kind in (errors.InputError, errors.AudioError, errors.LabelError):
        error = pickle.loads(pickle.dumps(kind("a.wav", 2.5, "truncated: x")))
        assert type(error) is kind
        assert (error.path, error.offset_s, error.reason) == ("a.wav", 2.5, "truncated: x")
    assert str(errors.AudioError("a.wav", 2.5, "truncated")) == "a.wav at 2.5 s: truncated"
    assert str(errors.AudioError("a.wav", 0.0, "truncated")) == "a.wav: truncated"


def test_a_missing_extra_says_what_to_install():
    assert "pip install 'birdjepa[wandb]'" in str(errors.MissingExtraError("wandb", "wandb"))
