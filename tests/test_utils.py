import random

import pytest
import torch

from scoring import confusion, scores
from utils import ProcessError, command, quoted, when_memory_runs_out


def test_scores_match_a_count_in_plain_python():
    rng = random.Random(0)
    prediction = torch.tensor([[[[rng.random() < 0.4 for _ in range(7)] for _ in range(5)]] for _ in range(20)])
    mask = torch.tensor([[[[rng.choice((0, 1, 1, 255)) for _ in range(7)] for _ in range(5)]] for _ in range(20)])
    prediction[3], mask[3] = False, 0
    prediction[4], mask[4] = False, 255
    sums = dict.fromkeys(("dice", "jaccard", "accuracy", "precision", "recall"), 0.0)
    pooled = [0, 0]
    for p, m in zip(prediction.flatten(1).tolist(), mask.flatten(1).tolist(), strict=True):
        pixels = [(a, b) for a, b in zip(p, m, strict=True) if b != 255]
        both = sum(a and b == 1 for a, b in pixels)
        predicted, true = sum(a for a, _ in pixels), sum(b for _, b in pixels)
        either = predicted + true - both
        sums["dice"] += 2 * both / (predicted + true) if predicted + true else 1
        sums["jaccard"] += both / either if either else 1
        sums["accuracy"] += sum(a == b for a, b in pixels) / len(pixels) if pixels else 1
        sums["precision"] += both / predicted if predicted else 1
        sums["recall"] += both / true if true else 1
        pooled = [pooled[0] + 2 * both, pooled[1] + predicted + true]
    found = scores(confusion(prediction, mask.to(torch.uint8)))
    for name, total in sums.items():
        assert found[name] == pytest.approx(total / 20, abs=1e-12), name
    assert found["pooled_dice"] == pytest.approx(pooled[0] / pooled[1], abs=1e-12)


@pytest.mark.parametrize("text", ["DefaultCPUAllocator: can't allocate memory", "not enough memory: you tried to",
                                  "MPS backend out of memory", "CUDA error: out of memory",
                                  "CUBLAS_STATUS_ALLOC_FAILED"])  # fmt: skip
def test_lack_of_memory_is_one_line_on_every_device(text):
    with pytest.raises(ProcessError, match="ran out of memory; use less"), when_memory_runs_out("use less"):
        raise RuntimeError(text)


def test_the_command_of_several_machines_has_the_processes_of_each(monkeypatch):
    assert command("a b.py", 1, processes=8) == "torchrun --nproc_per_node 8 'a b.py' 1"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert command("a.py", processes=16) == "torchrun --nnodes 2 --nproc_per_node 8 a.py"


def test_commands_are_quoted_for_the_shell_of_the_system(monkeypatch):
    assert quoted("a b", "{name}.png") == "'a b' '{name}.png'"
    monkeypatch.setattr("utils.os.name", "nt")
    assert quoted(r"C:\Users\Ann Lee\a.pth", "{name}.png") == r'"C:\Users\Ann Lee\a.pth" {name}.png'
