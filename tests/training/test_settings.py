"""Options from the command line reach the solver or the run, and everything else is refused by name."""

import pytest

from saferl.config import describe
from saferl.errors import ConfigError, UnknownNameError
from saferl.solvers.ppo_lag import PPOLagConfig
from saferl.training import RunSettings
from saferl.training.settings import split_assignments


def test_assignments_are_sorted_into_solver_and_run():
    config, settings = split_assignments(
        ["n_steps=32", "num_envs=3", "learning_rate = 0.01", "net_arch=[8, 4]", "activation=ReLU", "target_kl=null"],
        PPOLagConfig,
    )
    assert config == PPOLagConfig(n_steps=32, learning_rate=0.01, target_kl=None)
    assert settings == RunSettings(num_envs=3, net_arch=(8, 4), activation="ReLU")


def test_without_assignments_the_defaults_hold():
    assert split_assignments([], PPOLagConfig) == (PPOLagConfig(), RunSettings())


@pytest.mark.parametrize(
    ("key", "suggestion"), [("num_env", "num_envs"), ("learning_rat", "learning_rate"), ("netarch", "net_arch")]
)
def test_an_unknown_key_is_answered_with_the_nearest_of_both(key, suggestion):
    with pytest.raises(UnknownNameError, match=f"Unknown option {key!r}. Did you mean {suggestion!r}") as caught:
        split_assignments([f"{key}=1"], PPOLagConfig)
    assert suggestion in caught.value.suggestions
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("num_envs", "must look like KEY=VALUE; got 'num_envs'"),
        ("nonsense", "must look like KEY=VALUE; got 'nonsense'"),
        ("num_envs=many", "num_envs must be int; got 'many'"),
        ("num_envs=2.5", "num_envs must be int; got 2.5"),
        ("num_envs=true", "num_envs must be int; got True"),
        ("normalize_rewards=1", "normalize_rewards must be bool; got 1"),
        ("backend=threads", "backend must be one of 'auto', 'batched', 'reference', 'sync', 'process'; got 'threads'"),
        ("net_arch=64", "net_arch must be tuple"),
        ("learning_rate=NaN", "learning_rate must be a finite number"),
        ("learning_rate=Infinity", "learning_rate must be a finite number"),
        ("learning_rate=", "learning_rate must be a finite number; got ''"),
    ],
)
def test_a_malformed_value_is_one_error_that_says_what_it_must_be(assignment, message):
    with pytest.raises(ConfigError, match=message):
        split_assignments([assignment], PPOLagConfig)


def test_a_key_given_twice_is_refused():
    with pytest.raises(ConfigError, match="'num_envs' must be given once; got 'num_envs=2' and 'num_envs = 4'"):
        split_assignments(["num_envs=2", "n_steps=8", "num_envs = 4"], PPOLagConfig)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_envs", 0, "at least 1; got 0"),
        ("validation_episodes", 1, "at least 2; got 1"),
        ("num_checkpoints", -1, "at least 0; got -1"),
        ("torch_threads", -1, "at least 0; got -1"),
        ("validation_share", -0.1, r"in \[0, 1\]; got -0.1"),
        ("validation_share", 1.1, r"in \[0, 1\]; got 1.1"),
        ("net_arch", (64, 0), r"at least 1; got \(64, 0\)"),
    ],
)
def test_a_value_out_of_range_names_the_option_and_the_range(name, value, message):
    with pytest.raises(ConfigError, match=rf"RunSettings\.{name} must .*{message}"):
        RunSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_checkpoints", 0),
        ("torch_threads", 0),
        ("validation_share", 0.0),
        ("validation_share", 1.0),
        ("net_arch", ()),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert getattr(RunSettings(**{name: value}), name) == value


def test_every_setting_explains_itself():
    """``saferl list options`` prints these lines."""
    options = {option.name: option for option in describe(RunSettings)}
    assert all(option.help.endswith(".") for option in options.values())
    assert options["num_envs"].default == 8
