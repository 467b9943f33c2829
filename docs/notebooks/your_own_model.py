# %% [markdown]
# # Your own vision model
#
# A network of your own class, trained by your own loop: fxprune needs nothing but the trained
# module and inputs like those that it will see. Here is a small residual network for 28 x 28
# pictures.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.demo import data


class Block(nn.Module):
    """Two convolutions beside a shortcut, then half the resolution."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x):
        inside = self.norm1(self.first(x)).relu()
        return nn.functional.max_pool2d(
            (self.norm2(self.second(inside)) + self.shortcut(x)).relu(), 2
        )


torch.manual_seed(0)
model = nn.Sequential(
    Block(1, 16), Block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
)

# %% [markdown]
# Your training. Three passes over 3,000 pictures are enough to show the point; the other 2,000 are
# for testing.

# %%
pictures = data.load()
loader = DataLoader(
    TensorDataset(pictures.images[:3000], pictures.labels[:3000]), batch_size=50, shuffle=True
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * len(loader))
for _ in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
model.eval()

tested, labels = pictures.images[3000:], pictures.labels[3000:]
with torch.no_grad():
    decided = model(tested).argmax(1)
print(f"accuracy {(decided == labels).float().mean():.1%}")

# %% [markdown]
# Which channels belong together? The shortcut ties the outputs of two convolutions: they can only
# go together. No data is read for this.

# %%
print(fxprune.analyze(model, pictures.calibration[:2]))

# %% [markdown]
# Compress. The batches may hold labels; they are ignored. `decision="argmax"` says what an equal
# decision is (fxprune finds out by itself where the outputs leave no doubt).

# %%
calibration = DataLoader(pictures.calibration, batch_size=100)
small = fxprune.compress(model, calibration, flops=0.5, decision="argmax", progress=False)
print(fxprune.report(small).summary())

# %%
with torch.no_grad():
    same = small(tested).argmax(1) == decided
print(f"the same decision on {same.float().mean():.1%} of {len(tested):,} other pictures")
assert same.float().mean() > 0.8

# %% [markdown]
# Something must stay as it is? Name it. `keep={"0.*": 0.8}` would leave the first block at least 80
# % of its channels.

# %%
whole = fxprune.compress(
    model, calibration, flops=0.7, decision="argmax", ignore=["0.*"], progress=False
)
assert whole.get_submodule("0.first").out_channels == 16
print(fxprune.report(whole).agreement.rate)
