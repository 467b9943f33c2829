"""Models of timm, torchvision and transformers by name, and how images become their inputs."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fxprune.cli import models
from fxprune.cli.calibration import Source
from fxprune.cli.presets import preset_of
from fxprune.errors import SourceError
from tests.cli.test_app import LOADER, TINY, bad, good
from tests.nets import tiny

vision = pytest.mark.skipif(
    find_spec("torchvision") is None or find_spec("timm") is None,
    reason="timm and torchvision are not installed",
)


@pytest.fixture
def libraries() -> None:
    """torchvision, also beside a torch that its extension does not fit."""
    torchvision_ops = pytest.importorskip("benchmarks.models.torchvision_ops")
    assert torchvision_ops.torchvision


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twelve images of several sizes in two folders of classes."""
    image = pytest.importorskip("PIL.Image")
    draws = np.random.default_rng(0)
    for at in range(12):
        folder = tmp_path / "photographs" / ("cat", "dog")[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (40 + at, 60, 3), np.uint8)
        image.fromarray(pixels).save(folder / f"{at}.png")
    return tmp_path / "photographs"


@vision
@pytest.mark.usefixtures("libraries")
def test_images_of_a_timm_model_are_read_as_timm_says(photographs: Path, tmp_path: Path) -> None:
    timm: Any = pytest.importorskip("timm")
    name = "timm:test_resnet"
    net = models.model(name, trained=False)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    again = models.model(name, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))

    config = timm.data.resolve_model_data_config(net)
    read, _ = Source(model=name, data=str(photographs), batch=6).read(net)
    wanted = timm.data.create_transform(**config, is_training=False)
    image = pytest.importorskip("PIL.Image")
    first = wanted(image.open(photographs / "cat" / "0.png").convert("RGB"))
    (batch, _) = list(read)
    assert torch.equal(batch[0], first)

    # What the caller says goes before, the rest stays the model's.
    smaller, _ = Source(model=name, data=str(photographs), size=32).read(net)
    assert next(iter(smaller)).shape[1:] == (3, 32, 32)
    assert smaller._options.mean == tuple(config["mean"])


@vision
@pytest.mark.usefixtures("libraries")
def test_images_of_a_torchvision_model_are_read_as_its_weights_say(photographs: Path) -> None:
    from torchvision.models import ResNet18_Weights

    name = "torchvision:resnet18"
    net = models.model(name, trained=False)
    preset = preset_of(name, net)
    assert preset is not None
    assert (preset.size, preset.mean) == (224, (0.485, 0.456, 0.406))
    image = pytest.importorskip("PIL.Image").open(photographs / "dog" / "1.png").convert("RGB")
    wanted = ResNet18_Weights.DEFAULT.transforms()(image)
    assert torch.equal(preset.transform(image), wanted)
    found = json.loads(good("analyze", name, "--data", photographs, "--json"))
    assert len(found["groups"]) == 12


@vision
@pytest.mark.usefixtures("libraries")
def test_a_name_that_no_library_knows_is_one_line() -> None:
    assert "timm:no_such_net cannot be made" in bad("analyze", "timm:no_such_net", "--shape", "3")
    assert "torchvision:nothing cannot" in bad("analyze", "torchvision:nothing", "--shape", "3")


@pytest.mark.parametrize("library", ["timm", "torchvision", "hf"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "transformers" if library == "hf" else library
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SourceError, match=rf"{library}:x cannot be made.*pip install"):
        models.model(f"{library}:x")


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
def test_a_checkpoint_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    net = transformers.BertForSequenceClassification(config)
    net.save_pretrained(tmp_path)
    loaded: Any = models.model(f"hf:{tmp_path}")
    assert type(loaded) is type(net)
    assert torch.equal(loaded.classifier.weight, net.classifier.weight)
    # What transformers gives as dummy inputs says what the model takes.
    found = json.loads(good("analyze", f"hf:{tmp_path}", "--json"))
    assert any(group["name"].endswith("intermediate.dense") for group in found["groups"])
    assert "hf:" in bad("analyze", f"hf:{tmp_path / 'none'}")


@pytest.fixture
def vision_checkpoint(libraries: None, tmp_path: Path) -> Path:
    """A tiny vision transformer as transformers saves it, with its image processor."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    for saved in (transformers.ViTForImageClassification(config), processor):
        saved.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.slow
def test_images_of_a_checkpoint_are_read_as_its_processor_says(
    vision_checkpoint: Path, photographs: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    name = f"hf:{vision_checkpoint}"
    net = models.model(name)
    read, _ = Source(model=name, data=str(photographs), batch=6).read(net)
    image = pytest.importorskip("PIL.Image").open(photographs / "cat" / "0.png").convert("RGB")
    processor = transformers.AutoImageProcessor.from_pretrained(vision_checkpoint)
    (batch, _) = list(read)
    wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(batch[0], wanted)
    assert batch.shape == (6, 3, 32, 32)

    # What the caller says goes before, the rest stays the checkpoint's.
    other, _ = Source(model=name, data=str(photographs), std="0.5,0.5,0.5").read(net)
    assert other._options.mean == (0.4, 0.5, 0.6)
    assert next(iter(other)).shape[1:] == (3, 32, 32)

    # Without data, its configuration says what it takes.
    found = json.loads(good("analyze", name, "--json"))
    assert any(group["name"].endswith("mlp.fc1") for group in found["groups"])

    # Without a processor the caller has to say all of it.
    (vision_checkpoint / "preprocessor_config.json").unlink()
    line = bad("analyze", name, "--data", photographs)
    assert "does not say how images become its inputs" in line
    told = ("--size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    quick = ("--flops", "0.8", "--method", "magnitude", "--json")
    found = json.loads(good("compress", name, "--data", photographs, *told, *quick))
    assert found["inputs"][0]["shape"] == [2, 3, 32, 32]


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
def test_a_checkpoint_that_reads_words_takes_no_images(tmp_path: Path, photographs: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    line = bad("analyze", f"hf:{tmp_path / 'bert'}", "--data", photographs)
    assert "reads input_ids, not images" in line


def test_parts_of_a_data_set_are_not_mixed(photographs: Path) -> None:
    (photographs / "cat").rename(photographs / "train")
    (photographs / "dog").rename(photographs / "Test")
    line = bad("compress", TINY, "--data", photographs, "--size", "8", "--flops", "0.9")
    assert "holds Test/ and train/" in line
    assert f"such as --data {photographs / 'train'};" in line, "never the test set"
    assert len(Source(model=TINY, data=str(photographs / "train"), size=8).read(tiny())[0]) == 1
    # One part, or other names, are the caller's business.
    (photographs / "Test").rename(photographs / "dog")
    assert len(Source(model=TINY, data=str(photographs), size=8).read(tiny())[0].files) == 12


def test_a_model_that_was_written_is_one_again(tmp_path: Path) -> None:
    few = ("--data", LOADER, "--method", "magnitude", "--decision", "argmax")
    good("compress", TINY, *few, "--flops", "0.8", "--out", tmp_path / "a")
    good("compress", tmp_path / "a", *few, "--flops", "0.8", "--out", tmp_path / "b")
    first, second = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("a", "b")
    )
    assert second["flops"][0] == first["flops"][1]
    file = tmp_path / "b" / "model.safetensors"
    assert sum(p.numel() for p in models.model(str(file)).parameters()) == second["params"][1]
