"""Models of transformers: caches left on, generation, their own class, folders; and the page."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser
from torch import Tensor

import fxprune
from fxprune.errors import UnsupportedError

torchvision = pytest.importorskip("benchmarks.models.torchvision_ops")
transformers = pytest.importorskip("transformers")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "transformers.md"
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
}
KINDS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "LlamaForCausalLM": TINY | {"num_key_value_heads": 2},
    "Qwen2ForCausalLM": TINY | {"num_key_value_heads": 2},
    "MistralForCausalLM": TINY | {"num_key_value_heads": 2},
    "BertForSequenceClassification": TINY,
}
CAUSAL = [kind for kind in KINDS if "Causal" in kind or "LMHead" in kind]
FAST: dict[str, Any] = {"progress": False, "effort": 1}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fxprune.errors.CalibrationWarning"),
]


def model(kind: str) -> Any:
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    return made(made.config_class(**KINDS[kind])).eval()


def batches(lengths: tuple[int, ...] = (12, 17), count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        ids = torch.randint(3, 96, (8, lengths[i % len(lengths)]), generator=generator)
        mask = torch.ones_like(ids)
        mask[::2, -3:] = 0
        found.append({"input_ids": ids, "attention_mask": mask, "labels": ids})
    return found


def some(count: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(3, 96, (count, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_models_with_their_cache_on(kind: str) -> None:
    net = model(kind)
    assert net.config.use_cache
    small = fxprune.compress(net, batches(), flops=0.8, **FAST)
    found = fxprune.report(small).agreement
    assert found is not None
    assert (found.unit, found.perplexity is None) == ("next token", False)
    masked = fxprune.masked(net, small)
    for count, length in ((1, 1), (3, 17), (2, 128)):
        with torch.no_grad():
            own, wanted = (m(**some(count, length)).logits for m in (small, masked))
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_generation_with_and_without_a_cache(kind: str) -> None:
    net = model(kind)
    own: Any = fxprune.compress(net, batches(), flops=0.75, keep_class=True, **FAST)
    assert type(own) is type(net)
    assert sum(p.numel() for p in own.parameters()) < sum(p.numel() for p in net.parameters())
    ids = some(2, 5)["input_ids"]
    with torch.no_grad():
        texts = [
            own.generate(ids, max_new_tokens=64, do_sample=False, use_cache=cache, pad_token_id=0)
            for cache in (True, False)
        ]
    assert torch.equal(*texts)
    if kind.startswith("GPT2"):
        attention = own.transformer.h[0].attn
        assert attention.head_dim < 8
        assert attention.split_size == 4 * attention.head_dim


def classify(own: Any, folder: Path) -> None:
    """Text in, labels out, from a folder alone: `pipeline` finds model and tokenizer there."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *map(chr, range(97, 123))])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    read = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    read.save_pretrained(folder)
    texts = ["a b c", "z y x w v u", "q"]
    pipeline = transformers.pipeline("text-classification", model=str(folder))
    with torch.no_grad():
        shares = own(**read(texts, padding=True, return_tensors="pt")).logits.softmax(1)
    for share, found in zip(shares, pipeline(texts), strict=True):
        assert found["label"] == own.config.id2label[int(share.argmax())]
        assert found["score"] == pytest.approx(float(share.max()), abs=1e-5)


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "BertForSequenceClassification"])
def test_what_a_configuration_can_say(kind: str, tmp_path: Path) -> None:
    net = model(kind)
    own: Any = fxprune.compress(net, batches((12,)), flops=0.9, keep_class="config", **FAST)
    fxprune.to_hf(own, tmp_path / "small")
    auto = {"Llama": "AutoModelForCausalLM"}.get(kind[:5], "AutoModelForSequenceClassification")
    again = getattr(transformers, auto).from_pretrained(tmp_path / "small").eval()
    assert again.config.intermediate_size == own.config.intermediate_size < 64
    with torch.no_grad():
        found, wanted = (m(**some(3, 19)).logits for m in (again, own))
    torch.testing.assert_close(found, wanted)
    if kind.startswith("Bert"):
        classify(own, tmp_path / "small")


def test_what_a_configuration_cannot_say(tmp_path: Path) -> None:
    net = model("LlamaForCausalLM")
    own: Any = fxprune.compress(
        net,
        batches((12,)),
        flops=0.9,
        keep_class=True,
        keep={"model.layers.0.*": 1.0},
        method="channels",
        **FAST,
    )
    with pytest.raises(UnsupportedError, match="^to_hf: no numbers of its LlamaConfig.*uniform_ac"):
        fxprune.to_hf(own, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_uniform_widths_are_sayable(tmp_path: Path) -> None:
    net = model("LlamaForCausalLM")
    own: Any = fxprune.compress(
        net,
        batches((12,)),
        flops=0.9,
        keep_class=True,
        uniform_across="model.layers.*",
        **FAST,
    )
    fxprune.to_hf(own, tmp_path / "small")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**some(3, 19)).logits, own(**some(3, 19)).logits)


@pytest.mark.filterwarnings("ignore")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/transformers.md, in the order of the page."""
    monkeypatch.chdir(tmp_path)

    def run(example: Any) -> None:
        exec(compile(example.parsed, example.path, "exec"), example.namespace)

    document = Sybil([CodeBlockParser("python", run)]).parse(PAGE)
    examples = list(document.examples())
    assert len(examples) > 3
    with torch.random.fork_rng():
        for example in examples:
            example.evaluate()
