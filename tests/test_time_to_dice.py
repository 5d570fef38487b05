"""The table of benchmarks/time_to_dice.py, of contenders whose times are made up."""

import sys
from types import SimpleNamespace

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from time_to_dice import table


def contender(label, best, scored, **reached):
    times = {float(f"0.{goal[1:]}"): seconds for goal, seconds in reached.items()}
    return SimpleNamespace(label=label, best=best, scored=scored, seconds=scored + 20, reached=times)


def test_the_ratio_is_to_the_quickest_and_a_dice_never_reached_is_said_so():
    ours = [
        contender("short", 0.86, 40.0, d80=10.0, d85=40.0),
        contender("long", 0.905, 90.0, d80=20.0, d85=30.0, d90=80.0),
    ]
    lines = [*table([*ours, contender("R2", 0.86, 400.0, d80=50.0, d85=240.0)])]
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["0.80"] == ["10", "s", "20", "s", "50", "s", "5.0"]
    assert cells["0.85"] == ["40", "s", "30", "s", "240", "s", "8.0"]
    assert cells["0.90"] == ["80", "s", "over", "5.0"]  # R2 was last scored after 400 s
    assert cells["0.91"] == []
    assert " ".join(lines[-1].split()) == "best 0.8600 in 40 s 0.9050 in 90 s 0.8600 in 400 s"
