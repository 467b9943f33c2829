"""Compressed models of the caller's own class: what its forward takes, and sizes that it holds."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import PlanError, UnsupportedError
from tests.language import Block, CausalLM, texts

FAST: dict[str, Any] = {"progress": False, "effort": 1}
pytestmark = pytest.mark.filterwarnings("ignore::fxprune.errors.CalibrationWarning")


class Scale(nn.Module):
    """A layer of one's own that knows how many channels it gives."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.randn(16, outputs) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return (x.reshape(-1, 16) @ self.weight).view(*x.shape[:-1], self.outputs)


class Sized(Block):
    """Attention that holds the size of a head, and a first layer of its own in the MLP."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden)
        self.size, self.total, self.scale = width // heads, width, (width // heads) ** -0.5
        self.up: Any = Scale(hidden)

    def forward(self, x: Tensor, seen: Tensor, cache: Any) -> Tensor:
        n, length, _ = x.shape
        y = self.first(x)
        q, k, v = (
            layer(y).view(n, length, -1, self.size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        cache.keys.append(k)
        cache.values.append(v)
        read = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale)
        x = x + self.o(read.transpose(1, 2).reshape(n, length, self.total))
        added: Tensor = self.down(nn.functional.gelu(self.up(self.second(x))))
        return x + added


class Numbered(Sized):
    """Likewise, with the size of a head in its code."""

    def forward(self, x: Tensor, seen: Tensor, cache: Any) -> Tensor:
        n, length, _ = x.shape
        q = k = v = self.q(self.first(x)).view(n, length, 2, 8).transpose(1, 2)
        cache.keys.append(k)
        read = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.o(read.transpose(1, 2).flatten(2))
        added: Tensor = self.down(nn.functional.gelu(self.up(self.second(x))))
        return x + added


def language(block: type[Block], layers: int = 1) -> CausalLM:
    net = CausalLM(layers=0)
    net.blocks = nn.ModuleList(block(16, 2, 32) for _ in range(layers))
    return net.eval()


def batches() -> list[dict[str, Tensor]]:
    return [texts([7, 5, 9, 6], 9, seed=seed) for seed in range(8)]


@pytest.mark.slow
def test_sizes_of_heads_and_of_layers_are_set() -> None:
    net: Any = language(Sized)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    own: Any = fxprune.compress(net, batches(), flops=0.75, keep_class=True, **FAST)
    assert isinstance(own, CausalLM)
    assert not isinstance(own, torch.fx.GraphModule)
    blocks: list[Any] = list(own.blocks)
    for block in blocks:
        assert type(block).__name__ == "Sized"
        assert block.size == block.q.out_features // 2 == block.v.out_features // 2
        assert block.total == 2 * block.size
        assert block.up.outputs == block.up.weight.shape[1] == block.down.in_features
    assert any(block.size < 8 for block in blocks)
    assert all(block.up.outputs < 32 for block in blocks)
    # It is what was decided: the masked original gives the same.
    wanted = fxprune.apply(net, fxprune.plan_of(own), batches(), progress=False)
    batch = texts([21, 13])
    with torch.no_grad():
        found, expected = own(**batch)["logits"], wanted(**batch)["logits"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert fxprune.report(own).agreement is not None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.blocks[0].size == 8


class Unscaled(Sized):
    """Heads whose scores are scaled by the size they have."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden)
        self.scale = None


@pytest.mark.parametrize("block", [Numbered, Unscaled])
def test_what_the_forward_does_not_take_stays(block: type[Block]) -> None:
    net = language(block, layers=1)
    own: Any = fxprune.compress(net, batches(), flops=0.8, keep_class=True, **FAST)
    (own_block,) = own.blocks
    assert (own_block.q.out_features, own_block.o.in_features) == (16, 16)
    assert own_block.up.weight.shape[1] < 32
    reasons = {row.name: row.reason for row in fxprune.report(own).alone}
    assert "the forward of CausalLM takes no fewer: RuntimeError" in reasons["blocks.0.q.weight[0]"]


def test_a_class_that_takes_nothing_is_refused_before_any_work() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.second(self.first(x).relu().view(-1, 16))
            return made

    with pytest.raises(UnsupportedError, match="^keep_class=True: Fixed takes no layer of fewer"):
        fxprune.compress(
            Fixed(), torch.randn(60, 4), flops=0.7, keep_class=True, decision="close", **FAST
        )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"keep_class": 3}, "^keep_class=3: give True for the class of the model"),
        ({"keep_class": "config"}, "^keep_class=.config.: a Sequential is no model of transform"),
        ({"keep_class": True, "targets": ["0"]}, "^keep_class= and targets="),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], message: str) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UnsupportedError, match=message):
        fxprune.compress(net, torch.randn(60, 4), flops=0.7, decision="close", **asked, **FAST)


def test_a_graph_or_a_plain_class_is_nothing_for_transformers(tmp_path: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    small = fxprune.compress(net, torch.randn(60, 4), flops=0.7, decision="close", **FAST)
    with pytest.raises(UnsupportedError, match="^to_hf: a graph has no configuration"):
        fxprune.to_hf(small, tmp_path)
    with pytest.raises(UnsupportedError, match="^to_hf: a Sequential is no model of transformers"):
        fxprune.to_hf(small, tmp_path, net)


@pytest.mark.slow
def test_equal_widths_in_repeated_blocks() -> None:
    net = language(Block, layers=2)
    small: Any = fxprune.compress(net, batches(), flops=0.8, uniform_across="blocks.*", **FAST)
    plan = fxprune.plan_of(small)
    widths: list[Any] = [small.get_submodule(f"blocks.{i}.down").in_features for i in range(2)]
    assert len(set(widths)) == 1
    assert widths[0] < 32
    kept = [plan.kept[f"blocks.{i}.up.weight"][0] for i in range(2)]
    assert kept[0] != kept[1]  # each chooses its own
    assert not plan.factorings
    batch = texts([12, 9])
    again = fxprune.apply(net, plan, batches(), progress=False)
    masked = fxprune.masked(net, small)
    with torch.no_grad():
        found = [model(**batch)["logits"] for model in (small, again, masked)]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pattern", ["layers.*", "blocks.0", 3])
def test_blocks_that_are_not_there(pattern: Any) -> None:
    with pytest.raises(PlanError, match="^uniform_across="):
        fxprune.compress(language(Block), batches(), flops=0.8, uniform_across=pattern, **FAST)
