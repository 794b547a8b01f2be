"""A planner of thirty lines: it was led away from a view, and finds the way back in its memory.

Both walkers are led away from a view by a few random turns, and then have six turns to face it
again. The planner forks the walk: it tries both ways round in its imagination, since a world that
remembers shows what lies there, and takes the one on which the picture comes closest to the view.

    python examples/find_the_view.py --rounds 40
"""

import argparse

import numpy as np
from gymnasium import make

from loci.gym import FlatActions

LOOK_AHEAD, NEAR_DEGREES = 6, 20.0


def plan(env: FlatActions, view: np.ndarray) -> list[int]:
    """The turns, all to one side, on which the picture comes closest to the view."""
    walk, best, closest = env.unwrapped, [], np.inf
    start = walk.clone_state()
    for action in (env.names.index("turn left"), env.names.index("turn right")):
        walk.restore_state(start)
        for count in range(LOOK_AHEAD + 1):
            frame = start[1] if count == 0 else env.step(np.int64(action))[0]
            error = np.square(frame.astype(float) - view).mean()
            if error < closest:
                best, closest = [action] * count, error
    walk.restore_state(start)
    return best


def degrees_off(env: FlatActions, goal: float) -> float:
    heading = np.degrees(env.unwrapped.clone_state()[0].pose[0, 0].item())
    return abs((heading - goal + 180) % 360 - 180)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=40)
    rounds = arguments.parse_args().rounds
    env = FlatActions(make("loci.gym:loci/Walk-v0", disable_env_checker=True).unwrapped)
    turns = [env.names.index("turn left"), env.names.index("turn right")]
    found = {"planner": 0, "random": 0}
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        for _ in range(LOOK_AHEAD):  # look round once, to have something to remember
            view = env.step(np.int64(turns[0]))[0]
        goal = np.degrees(env.unwrapped.clone_state()[0].pose[0, 0].item())
        for _ in range(int(rng.integers(1, LOOK_AHEAD))):
            env.step(np.int64(turns[0]))
        led_away = env.unwrapped.clone_state()
        for action in plan(env, view.astype(float)):
            env.step(np.int64(action))
        found["planner"] += degrees_off(env, goal) < NEAR_DEGREES
        env.unwrapped.restore_state(led_away)
        for action in rng.choice(turns, LOOK_AHEAD):
            env.step(np.int64(action))
        found["random"] += degrees_off(env, goal) < NEAR_DEGREES
    for name, count in found.items():
        print(f"{name}: faces the view again in {count} of {rounds} rounds")


if __name__ == "__main__":
    main()
