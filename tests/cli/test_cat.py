"""``cat`` on the command line: what it was trained for is said wherever its costs are shown."""

from command_line import TINY, USER_ENV, run_quietly


def test_an_evaluation_of_cat_tells_the_share_of_violating_steps_and_that_no_budget_was_trained_for(folder):
    code, _, err = run_quietly("train", "cat", *USER_ENV, *TINY, "--out", "cat")
    assert code == 0, err
    code, out, err = run_quietly("eval", "cat", "--episodes", "16", "--workers", "1")
    assert code == 0, err
    assert "CaT violates cost in" in out
    assert "% of its steps. It was trained for few, not for a budget." in out


def test_a_budget_to_train_at_is_refused(folder):
    code, _, err = run_quietly("train", "cat", *USER_ENV, *TINY, "--train-budget", "cost=1", "--out", "none")
    assert code == 2
    assert "trains at no budget of kind 'episode_sum'; got 1. Leave it out" in err
