"""Files from untrusted sources: checkpoints and archives."""

import io
import tarfile

import pytest
import torch
from conftest import error_of, make_checkpoint, read_scores, script
from fuzz import fuzz
from PIL import Image
from test_checkpoint import Hostile
from test_download import server  # noqa: F401

import oxford_pet
from checkpoint import load
from models import MODELS, build_model
from utils import UserError


def test_no_command_runs_code_in_a_checkpoint(tmp_path):
    torch.save({"model": Hostile()}, tmp_path / "harm.pth")
    commands = [(name, "--model") for name in ("evaluate", "inference", "report")]
    commands += [("train", "--resume"), ("train", "--model", "resnet34_unet", "--encoder_weights")]
    for command in commands:
        done = script(*command, "harm.pth", cwd=tmp_path, expect=2)
        assert "harm.pth" in error_of(done) and "executed" not in done.stdout


def test_model_type_does_not_override_the_metadata_of_a_checkpoint(tmp_path):
    path = make_checkpoint(tmp_path / "own.pth", image_size=96)
    checkpoint = torch.load(path, weights_only=True) | {"mean": [0.4] * 3, "std": [0.2] * 3, "threshold": 0.3}
    torch.save(checkpoint, path)
    found = load(path, "unet")
    assert all(getattr(found, key) == checkpoint[key] for key in ("image_size", "mean", "std", "threshold"))
    for other in MODELS.keys() - {"unet"}:
        with pytest.raises(UserError, match=f"unet.*{other}.*--model_type"):
            load(path, other)


def test_a_state_dict_predicts_if_model_type_names_its_network(tmp_path):
    weights = build_model("unet", width=4).state_dict()
    torch.save({name: value.half() for name, value in weights.items()}, tmp_path / "half.pth")
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    flags = ("--model", "half.pth", "a.png", "--image_size", 32, "--output", "out", "--overwrite")
    script("predict", *flags, "--model_type", "unet", cwd=tmp_path)
    assert Image.open(tmp_path / "out/a.png").size == (50, 40)
    done = script("predict", *flags, "--model_type", "resnet34_unet", cwd=tmp_path, expect=2)
    assert "--model_type resnet34_unet" in error_of(done)
    assert "--model_type" in error_of(script("predict", *flags, cwd=tmp_path, expect=2))


def test_provenance_is_written_with_the_scores(tmp_path):
    script("train", "--dataset", "shapes", "--limit", 4, "--width", 2, "--epochs", 1, "--steps", 1, cwd=tmp_path)
    script("evaluate", "--model", "saved_models/unet.pth", "--limit", 2, "--output", "s", cwd=tmp_path)
    found = read_scores(tmp_path, "s")["provenance"]
    assert "train.py" in found["command"] and found["args"]["width"] == 2 and found["epoch"] == 1
    assert found["versions"]["torch"] == torch.__version__ and found["device"] == "cpu" and "commit" in found["git"]


def archive_of(*members):
    """Return a tar.gz with members (name, link target or None). Those that are not links have ten bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, link in members:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            else:
                entry.size = 10
            archive.addfile(entry, io.BytesIO(b"0123456789"))
    return file.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped.txt", None)],
        [("images/../../../escaped.txt", None)],
        [("{outside}/escaped.txt", None)],
        [("images/link", "../../.."), ("images/link/escaped.txt", None)],
        [("images/link", "{outside}"), ("images/link/escaped.txt", None)],
    ],
)
def test_a_malicious_archive_writes_nothing_outside_its_folder(members, server, tmp_path):  # noqa: F811
    outside = tmp_path / "outside"
    outside.mkdir()
    named = [(name.format(outside=outside), link and link.format(outside=outside)) for name, link in members]
    server.files["/images.tar.gz"] = archive_of(*named)
    server.publish()
    target = tmp_path / "deep" / "er" / "pets"
    before = set(tmp_path.rglob("*"))
    try:
        oxford_pet.download(target)
    except UserError as refused:
        assert "images.tar.gz" in str(refused)
    new = set(tmp_path.rglob("*")) - before - {target.parent.parent, target.parent, target}
    assert all(target in path.parents for path in new), new


def test_a_truncated_archive_with_the_expected_checksum_is_refused(server, tmp_path):  # noqa: F811
    server.files["/images.tar.gz"] = server.files["/images.tar.gz"][:2000]
    server.publish()
    with pytest.raises(UserError, match="images.tar.gz"):
        oxford_pet.download(tmp_path / "pets")


@pytest.mark.parametrize(
    "number, seed", [pytest.param(80, 0, marks=pytest.mark.integration), pytest.param(2000, 1, marks=pytest.mark.slow)]
)
def test_mutated_files_are_read_correctly_or_refused(number, seed, tmp_path):
    counts = fuzz(number, tmp_path, seed)
    assert counts["tried"] == number and counts["accepted"] > 10
    assert (counts["tracebacks"], counts["hangs"], counts["wrong"]) == (0, 0, 0)
