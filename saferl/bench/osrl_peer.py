"""OSRL's CDT and BC-Safe on our data files, run by the peer's own Python; it imports nothing of saferl.

    PEER_PYTHON osrl_peer.py train cdt DATA OUT --steps 5000 --batch 64 --seed 0 --options '{"max_reward": 60}'
    PEER_PYTHON osrl_peer.py serve OUT
    PEER_PYTHON osrl_peer.py time --observation 60 --action 2

``serve`` answers on standard input and output: one line of JSON per request, then raw float32 numbers where it says so.
``{"op": "begin", "lanes": L, "target_return": R, "target_cost": C}``; ``{"op": "act"}`` with observations (L, F),
answered with actions (L, A); ``{"op": "observe"}`` with rewards (L,) and costs (L,). Lanes run in step.
``time`` waits for lines ``step BATCH`` and ``act COUNT``, and answers with the seconds of one training step of CDT on
random windows, or of COUNT actions in one environment.
Networks, losses, augmentation, sampling and the windows at run time are OSRL's; a batch of lanes stands for its one
environment, and ``DataLoader`` workers are left out (two cores).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

_CDT: dict[str, Any] = {
    "embedding_dim": 128,
    "num_layers": 3,
    "num_heads": 8,
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
    "embedding_dropout": 0.1,
    "time_emb": True,
    "use_rew": True,
    "use_cost": True,
    "stochastic": True,
    "init_temperature": 0.1,
}
"""OSRL's defaults of the network."""
_TRAINER: dict[str, Any] = {
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "betas": (0.9, 0.999),
    "clip_grad": 0.25,
    "lr_warmup_steps": 500,
    "loss_cost_weight": 0.02,
    "loss_state_weight": 0.0,
    "cost_reverse": False,
    "no_entropy": False,
}
_DATA: dict[str, Any] = {"deg": 1, "max_rew_decrease": 5.0, "max_reward": 50.0, "min_reward": 1.0}
"""What OSRL sets for every task; the caller scales it to the data."""
_REWARD_SCALE = 0.1
_LENGTH = 10


class _Silent:
    def store(self, *args: Any, **kwargs: Any) -> None: ...

    def write(self, *args: Any, **kwargs: Any) -> None: ...


def _read(path: str) -> dict[str, Any]:
    import h5py

    keys = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
    with h5py.File(path, "r") as file:
        data = {key: np.asarray(file[key], dtype=np.float32) for key in keys}
    if data["costs"].ndim == 2:
        if data["costs"].shape[1] != 1:
            raise SystemExit(f"OSRL knows one cost; {path} has {data['costs'].shape[1]}.")
        data["costs"] = data["costs"][:, 0]
    return data


def _build(facts: dict[str, Any]) -> Any:
    from osrl.algorithms import BC, CDT

    widths = {"state_dim": facts["observation_width"], "action_dim": facts["action_width"], "max_action": 1.0}
    if facts["algorithm"] == "bc_safe":
        return BC(**widths, a_hidden_sizes=[256, 256], episode_len=facts["episode_len"])
    return CDT(
        **widths,
        **_CDT,
        seq_len=_LENGTH,
        episode_len=facts["episode_len"],
        cost_transform=lambda cost: 50 - cost,
        target_entropy=-facts["action_width"],
    )


def _train(arguments: argparse.Namespace) -> None:
    np.random.seed(arguments.seed)  # noqa: NPY002 - OSRL draws from the global generator
    th.manual_seed(arguments.seed)
    data = _read(arguments.data)
    ends = np.flatnonzero((data["terminals"] > 0) | (data["timeouts"] > 0)) + 1
    longest = int(np.diff(np.concatenate([[0], ends])).max())
    facts = {
        "algorithm": arguments.algorithm,
        "observation_width": data["observations"].shape[1],
        "action_width": data["actions"].shape[1],
        "episode_len": longest,
    }
    model = _build(facts)
    start = time.perf_counter()
    (_train_cdt if arguments.algorithm == "cdt" else _train_bc)(model, data, arguments)
    seconds = time.perf_counter() - start
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    th.save(model.state_dict(), out / "model.pt")
    (out / "facts.json").write_text(json.dumps({**facts, "seconds": seconds, "steps": arguments.steps}))
    print(f"SECONDS {seconds:.1f}")


def _batches(dataset: Any, size: int) -> Any:
    return iter(th.utils.data.DataLoader(dataset, batch_size=size, num_workers=0))


def _train_cdt(model: Any, data: dict[str, Any], arguments: argparse.Namespace) -> None:
    from osrl.algorithms import CDTTrainer
    from osrl.common import SequenceDataset

    trainer = CDTTrainer(model, None, logger=_Silent(), reward_scale=_REWARD_SCALE, cost_scale=1.0, **_TRAINER)
    options = {**_DATA, **json.loads(arguments.options)}
    dataset = SequenceDataset(
        data,
        seq_len=_LENGTH,
        reward_scale=_REWARD_SCALE,
        cost_scale=1.0,
        augment_percent=0.2,
        beta=1.0,
        cost_sample=True,
        cost_transform=lambda cost: 70 - cost,
        **options,
    )
    batches = _batches(dataset, arguments.batch)
    for _ in range(arguments.steps):
        states, actions, returns, costs_to_go, steps, mask, episode_cost, costs = next(batches)
        trainer.train_one_step(states, actions, returns, costs_to_go, steps, mask, episode_cost, costs)


def _train_bc(model: Any, data: dict[str, Any], arguments: argparse.Namespace) -> None:
    from osrl.algorithms import BCTrainer
    from osrl.common.dataset import TransitionDataset, process_bc_dataset

    process_bc_dataset(data, arguments.budget, 1.0, "safe")
    trainer = BCTrainer(model, None, logger=_Silent(), actor_lr=1e-3, bc_mode="safe", cost_limit=arguments.budget)
    batches = _batches(TransitionDataset(data), arguments.batch)
    for _ in range(arguments.steps):
        observations, _, actions, *_rest = next(batches)
        trainer.train_one_step(observations, actions)


class _CdtLanes:
    """The windows of OSRL's rollout, one per lane."""

    def __init__(self, model: Any, facts: dict[str, Any], request: dict[str, Any]) -> None:
        lanes, steps = request["lanes"], facts["episode_len"] + 1
        self.model, self.facts, self.step = model, facts, 0
        self.states = th.zeros(lanes, steps, facts["observation_width"])
        self.actions = th.zeros(lanes, steps, facts["action_width"])
        self.returns = th.full((lanes, steps), request["target_return"] * _REWARD_SCALE)
        self.costs = th.full((lanes, steps), float(request["target_cost"]))
        self.budget = th.full((lanes,), float(request["target_cost"]))

    def act(self, observations: Any) -> Any:
        self.states[:, self.step] = th.as_tensor(observations)
        window = slice(max(0, self.step + 1 - _LENGTH), self.step + 1)
        times = th.arange(window.start, window.stop).repeat(len(self.states), 1)
        parts = (self.states, self.actions, self.returns, self.costs)
        actions, _, _ = self.model(*(part[:, window] for part in parts), times, None, self.budget)
        chosen = actions.mean.clamp(-1.0, 1.0)[:, -1]
        self.actions[:, self.step] = chosen
        return chosen

    def observe(self, rewards: Any, costs: Any) -> None:
        self.returns[:, self.step + 1] = self.returns[:, self.step] - _REWARD_SCALE * th.as_tensor(rewards)
        self.costs[:, self.step + 1] = self.costs[:, self.step] - th.as_tensor(costs)
        self.step += 1


class _BcLanes:
    def __init__(self, model: Any, facts: dict[str, Any], request: dict[str, Any]) -> None:
        self.model = model

    def act(self, observations: Any) -> Any:
        return self.model.actor(th.as_tensor(observations)).clamp(-1.0, 1.0)

    def observe(self, rewards: Any, costs: Any) -> None: ...


def _numbers(count: int) -> Any:
    return np.frombuffer(sys.stdin.buffer.read(4 * count), dtype=np.float32).copy()


def _serve(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    facts = json.loads((out / "facts.json").read_text())
    model = _build(facts)
    model.load_state_dict(th.load(out / "model.pt", weights_only=True))
    model.eval()
    kind = _CdtLanes if facts["algorithm"] == "cdt" else _BcLanes
    lanes: Any = None
    count = 0
    with th.no_grad():
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if request["op"] == "begin":
                count = request["lanes"]
                lanes = kind(model, facts, request)
            elif request["op"] == "act":
                observations = _numbers(count * facts["observation_width"]).reshape(count, -1)
                sys.stdout.buffer.write(lanes.act(observations).numpy().astype(np.float32).tobytes())
                sys.stdout.buffer.flush()
            else:
                rewards, costs = _numbers(2 * count).reshape(2, count)
                lanes.observe(rewards, costs)


def _time(arguments: argparse.Namespace) -> None:
    from osrl.algorithms import CDTTrainer

    th.set_num_threads(arguments.threads)
    widths = {"observation_width": arguments.observation, "action_width": arguments.action}
    facts = {"algorithm": "cdt", "episode_len": 1000, **widths}
    model = _build(facts)
    trainer = CDTTrainer(model, None, logger=_Silent(), reward_scale=_REWARD_SCALE, cost_scale=1.0, **_TRAINER)
    for line in sys.stdin:
        kind, count = line.split()[0], int(line.split()[1])
        if kind == "step":
            windows = (count, _LENGTH)
            parts = (th.randn(*windows, arguments.observation), th.rand(*windows, arguments.action) * 2 - 1)
            targets = (th.rand(windows), th.rand(windows), th.arange(_LENGTH).repeat(count, 1), th.ones(windows))
            costs = th.randint(0, 2, windows).float()
            model.train()
            start = time.perf_counter()
            trainer.train_one_step(*parts, *targets, th.rand(count), costs)
        else:
            model.eval()
            lanes = _CdtLanes(model, facts, {"lanes": 1, "target_return": 10.0, "target_cost": 10.0})
            observations = np.random.default_rng(0).normal(size=(count, 1, arguments.observation)).astype(np.float32)
            start = time.perf_counter()
            with th.no_grad():
                for observation in observations:
                    lanes.act(observation)
                    lanes.observe(np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.float32))
        print(time.perf_counter() - start, flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train")
    train.add_argument("algorithm", choices=("cdt", "bc_safe"))
    train.add_argument("data")
    train.add_argument("out")
    train.add_argument("--steps", type=int, default=5000)
    train.add_argument("--batch", type=int, default=64)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--budget", type=float, default=20.0)
    train.add_argument("--options", default="{}")
    train.set_defaults(run=_train)
    serve = commands.add_parser("serve")
    serve.add_argument("out")
    serve.set_defaults(run=_serve)
    timing = commands.add_parser("time")
    timing.add_argument("--observation", type=int, required=True)
    timing.add_argument("--action", type=int, required=True)
    timing.add_argument("--threads", type=int, default=1)
    timing.set_defaults(run=_time)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    _main()
