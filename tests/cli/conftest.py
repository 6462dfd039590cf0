"""A user's folder with an environment of their own, and a tiny run in it."""

import contextlib
import sys

import pytest
from command_line import TINY, USER_ENV, USER_FILE, run_quietly


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder, with an environment of their own."""
    path = tmp_path_factory.mktemp("user")
    (path / "user_env.py").write_text(USER_FILE)
    (path / "file").write_text("mine")
    return path


@pytest.fixture(autouse=True)
def _in_the_users_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def trained(folder):
    """A tiny run of the user's environment; its name holds what a shell and a markup language would trip over."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        code, out, err = run_quietly("train", "ppo_lag", *USER_ENV, *TINY, "--seed", "3", "--out", "my [first] run")
    assert code == 0, err
    return folder / "my [first] run", out
