"""Files that a stranger sends."""

import io
import json
import tarfile

import pytest
import torch
from conftest import error_of, make_checkpoint, script
from fuzz import fuzz
from PIL import Image
from test_download import server  # noqa: F401

import oxford_pet
from checkpoint import load, restore_model
from models import build_model
from utils import UserError


class Creates:
    """Unpickled, it would create a file."""

    def __reduce__(self):
        return (open, ("harm.txt", "w"))


def plain(**options):
    return build_model("unet", width=4, **options).state_dict()


def test_a_checkpoint_with_code_in_it_does_nothing(tmp_path):
    torch.save({"model": Creates()}, tmp_path / "harm.pth")
    for name in ("evaluate", "inference", "report"):
        done = script(name, "--model", "harm.pth", cwd=tmp_path, expect=2)
        assert "harm.pth" in error_of(done)
    script("train", "--resume", "harm.pth", cwd=tmp_path, expect=2)
    script("train", "--model", "resnet34_unet", "--encoder_weights", "harm.pth", cwd=tmp_path, expect=2)
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {key: value for key, value in c.items() if key != "mean"},
        lambda c: {**c, "model": {}},
        lambda c: {**c, "model": plain(depth=3)},
        lambda c: {**c, "model": build_model("resnet34_unet").state_dict()},
        lambda c: {**c, "model": {key: value * torch.nan for key, value in c["model"].items()}},
        lambda c: {**c, "options": {**c["options"], "width": 10**12}},
        lambda c: {**c, "options": {**c["options"], "depth": 10**12}},
        lambda c: {**c, "options": {"width": 4}},
        lambda c: {**c, "image_size": 10**9},
        lambda c: {**c, "std": [0.0, 0.0, 0.0]},
        lambda c: c["model"],
        lambda c: [1, 2],
    ],
)
def test_a_checkpoint_that_cannot_be_right_is_refused_in_one_line(change, tmp_path):
    torch.save(change(load(make_checkpoint(tmp_path / "a.pth")).to_dict()), tmp_path / "b.pth")
    with pytest.raises(UserError, match="b.pth") as refused:
        restore_model(load(tmp_path / "b.pth"), tmp_path / "b.pth")
    assert "\n" not in str(refused.value)


def test_a_changed_state_is_not_resumed(tmp_path):
    flags = ("--dataset", "shapes", "--limit", 4, "--width", 2, "--epochs", 1, "--steps", 1)
    script("train", *flags, cwd=tmp_path)
    last = tmp_path / "saved_models/unet.last.pth"
    good = torch.load(last, weights_only=True)
    for change in ({"training": {}}, {"training": {"progress": None}}, {"args": None}):
        torch.save({**good, **change}, last)
        assert "unet.last.pth" in error_of(script("train", "--resume", last, "--epochs", 2, cwd=tmp_path, expect=2))


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, bytes(range(256)) * 9, b"PK\3\4 and no more"])
def test_bytes_that_are_no_checkpoint(content, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match="a.pth"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "name, options",
    [
        ("unet", {"width": 4, "depth": 3}),
        ("unet", {"width": 4, "norm": "none", "out_channels": 2}),
        ("unet_shallow", {"width": 4, "in_channels": 1}),
        ("unet_add", {"width": 4}),
        ("resnet34_unet", {}),
        ("resnet34_unet", {"decoder": "upconv"}),
        ("resnet34_unet", {"decoder": "transposed"}),
    ],
)
def test_a_plain_state_dict_is_taken_with_its_networks_name(name, options, tmp_path):
    model = build_model(name, **options).eval()
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    restored = restore_model(load(tmp_path / "plain.pth", name), "plain.pth")
    image = torch.randn(1, options.get("in_channels", 3), 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(restored(image), model(image))


def test_a_checkpoint_that_describes_itself_is_not_described_by_model_type(tmp_path):
    path = make_checkpoint(tmp_path / "own.pth", image_size=96)
    checkpoint = torch.load(path, weights_only=True) | {"mean": [0.4] * 3, "std": [0.2] * 3, "threshold": 0.3}
    torch.save(checkpoint, path)
    found = load(path, "unet")
    assert all(getattr(found, key) == checkpoint[key] for key in ("image_size", "mean", "std", "threshold"))
    with pytest.raises(UserError, match="is a unet, not a resnet34_unet; omit --model_type"):
        load(path, "resnet34_unet")


def test_a_state_dict_in_half_precision_predicts(tmp_path):
    torch.save({name: value.half() for name, value in plain().items()}, tmp_path / "half.pth")
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
    [row] = json.loads((tmp_path / "s.json").read_text())
    made = row["provenance"]
    assert "train.py" in made["command"] and made["args"]["width"] == 2 and made["epoch"] == 1
    assert made["versions"]["torch"] == torch.__version__ and made["device"] == "cpu" and "commit" in made["git"]


def archive_of(*members):
    """A tar.gz of (name, link target or None) members, with ten bytes in each that is no link."""
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
        assert "images.tar.gz failed" in str(refused)
    made = set(tmp_path.rglob("*")) - before - {target.parent.parent, target.parent, target}
    assert all(target in path.parents for path in made), made


def test_a_truncated_archive_whose_sum_is_right(server, tmp_path):  # noqa: F811
    server.files["/images.tar.gz"] = server.files["/images.tar.gz"][:2000]
    server.publish()
    with pytest.raises(UserError, match="images.tar.gz failed"):
        oxford_pet.download(tmp_path / "pets")


@pytest.mark.integration
def test_a_short_fuzz(tmp_path):
    counts = fuzz(80, tmp_path)
    assert counts["tried"] == 80 and counts["accepted"] > 10
    assert (counts["tracebacks"], counts["hangs"], counts["wrong"]) == (0, 0, 0)


@pytest.mark.slow
def test_a_long_fuzz(tmp_path):
    counts = fuzz(2000, tmp_path, seed=1)
    assert (counts["tried"], counts["tracebacks"], counts["hangs"], counts["wrong"]) == (2000, 0, 0, 0)
