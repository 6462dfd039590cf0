"""A config file says what a training is; what is wrong with it is one error."""

import pytest

from saferl.errors import ConfigError, UnknownNameError
from saferl.training.config_file import TrainConfig, parse_seeds, read_config


def write(folder, text):
    path = folder / "train.toml"
    path.write_text(text)
    return path


def test_every_key_is_read(tmp_path):
    text = """
    solver = "ppo_lag"
    env = "SafetyHopperVelocity-v1"
    steps = 1000
    seeds = "0-2"
    device = "cpu"
    [budgets]
    cost = 10
    [options]
    net_arch = [32, 32]
    """
    assert read_config(write(tmp_path, text)) == TrainConfig(
        solver="ppo_lag",
        env="SafetyHopperVelocity-v1",
        steps=1000,
        seeds="0-2",
        device="cpu",
        budgets={"cost": 10},
        options={"net_arch": [32, 32]},
    )


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("solver = ", ConfigError, "must be TOML"),
        ('solvr = "x"', UnknownNameError, "Did you mean 'solver'"),
        ("steps = 1.5", ConfigError, "steps must be"),
        ("budgets = 3", ConfigError, r"budgets must be a table; got 3. Write \[budgets\]"),
        ("[budgets]\ncost = '5'", ConfigError, "budget of 'cost' .* must be a number; got '5'"),
        ("[train_budgets]\ncost = true", ConfigError, "must be a number; got True"),
        ("seed = 1\nseeds = '0-2'", ConfigError, "seed or seeds, not both"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, kind, message):
    with pytest.raises(kind, match=message):
        read_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("0,5,10", [0, 5, 10]), ("7", [7]), ("3, 1-2", [3, 1, 2])]
)
def test_seeds_are_ranges_and_lists(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "4-0", "1-", "-1", "1,,2", "0-2,1"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match=r"Seeds must look like|given once"):
        parse_seeds(text)
