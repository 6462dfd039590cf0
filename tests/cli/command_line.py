"""What the tests of the command line share: a user's file, and one command in this process."""

import contextlib
import io
import re

import pytest

from saferl.cli import main

USER_FILE = """
import gymnasium


def make():
    return gymnasium.make("CartPole-v1", max_episode_steps=20)


def cost(obs, action, next_obs):
    return float(next_obs[0] > 0.0)


def two_costs(obs, action, next_obs):
    return {"right": float(next_obs[0] > 0.0), "fast": float(abs(next_obs[1]) > 0.5)}


def nan(obs, action, next_obs):
    return float("nan")


def inf(obs, action, next_obs):
    return float("inf")


def text(obs, action, next_obs):
    return "a lot"


class Reporting(gymnasium.Wrapper):
    value = None

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "cost": self.value}


class NanReporting(Reporting):
    value = float("nan")


def make_nan():
    return NanReporting(make())


def not_an_env():
    return 7


answer = 42
"""
VELOCITY = "SafetyHalfCheetahVelocity-v1"
TINY = ["--steps", "64", "--num-envs", "2", "--set", "n_steps=16", "--set", "net_arch=[8]"]
USER_ENV = ["user_env:make", "--cost", "user_env:cost", "--budget", "cost=5"]


def run_quietly(*arguments):
    """Exit code, stdout and stderr of one command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code, out.getvalue(), err.getvalue()


def flat(text):
    """A message without the frames and line breaks that depend on the terminal."""
    return " ".join(re.sub("[─│╭╮╰╯]", " ", text).split())


def assert_one_message(err, pattern):
    message = flat(err)
    assert "Traceback" not in message
    assert message.count("Error") == 1
    assert re.search(pattern, message), message
