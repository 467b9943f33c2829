# %% [markdown]
# # A transformer
#
# PyTorch's own encoder, trained here in a few seconds on a task that attention is good at: which of
# eight tokens occurs most often in a sequence? What comes out is smaller in its heads and in its
# feed-forward layers, and still takes sequences of any length.

# %%
import torch
from torch import nn

import fxprune

torch.manual_seed(0)
TOKENS = 8


def sequences(count: int, length: int) -> torch.Tensor:
    """(count, length) tokens, each row with a favorite."""
    favorite = torch.randint(TOKENS, (count, 1))
    return torch.where(
        torch.rand(count, length) < 0.3, favorite, torch.randint(TOKENS, (count, length))
    )


class Encoder(nn.Module):
    def __init__(self, width: int = 64, heads: int = 4):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


model = Encoder()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(150):
    x = sequences(64, 24)
    counts = nn.functional.one_hot(x, TOKENS).sum(1)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), counts.argmax(1)).backward()
    optimizer.step()
model.eval()

tested = sequences(2000, 24)
with torch.no_grad():
    decided = model(tested).argmax(1)
counts = nn.functional.one_hot(tested, TOKENS).sum(1)
print(f"accuracy {(decided == counts.argmax(1)).float().mean():.1%}")

# %% [markdown]
# What can go: whole heads with their queries, keys and values, and the hidden units of the
# feed-forward layers. The width of the residual stream stays.

# %%
small = fxprune.compress(model, sequences(1000, 24), flops=0.6, decision="argmax", progress=False)
report = fxprune.report(small)
print(report.summary())
for row in report.groups:
    print(f"{row.name:32} {row.before:4} -> {row.after:4}")

# %%
with torch.no_grad():
    same = small(tested).argmax(1) == decided
print(f"the same decision on {same.float().mean():.1%} of {len(tested):,} other sequences")
assert same.float().mean() > 0.85

# %% [markdown]
# The length was 24 in calibration. It is free in the result, as in the original:

# %%
longer = sequences(500, 40)
with torch.no_grad():
    same = small(longer).argmax(1) == model(longer).argmax(1)
print(f"the same decision on {same.float().mean():.1%} of sequences of 40 tokens")
