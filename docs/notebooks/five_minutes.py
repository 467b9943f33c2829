# %% [markdown]
# # Five minutes with the demo
#
# A trained VGG and a thousand unlabeled pictures of clothes come with fxprune. We halve the network
# and look at what that does.

# %%
import torch

import fxprune
from fxprune.demo import data
from fxprune.demo.run import vgg

model, pictures = vgg(), data.load()
small = fxprune.compress(model, pictures.calibration, flops=0.5, progress=False)
print(fxprune.report(small).summary())

# %% [markdown]
# The bound speaks of pictures like those that it was given. Here are 5,000 more, which took no
# part:

# %%
with torch.no_grad():
    before, after = (net(pictures.images).argmax(1) for net in (model, small))

print(f"the same decision: {(before == after).float().mean():.2%}")
print(f"accuracy before:   {(before == pictures.labels).float().mean():.2%}")
print(f"accuracy after:    {(after == pictures.labels).float().mean():.2%}")
assert (before == after).float().mean() > fxprune.report(small).agreement.bound

# %% [markdown]
# How wide every layer is now, and what part of the output's error was predicted to come from it.
# Layers that became two have a rank:

# %%
for row in fxprune.report(small).groups:
    print(f"{row.name:34} {row.before:4} -> {row.after:4}   {row.error:.1e}")

# %% [markdown]
# The small network is an ordinary module with smaller tensors; nothing is masked. Layers that
# became two are numbered:

# %%
for name, weight in small.state_dict().items():
    if weight.dim() > 1:
        print(f"{name:24} {tuple(weight.shape)}")

# %% [markdown]
# The report of the whole, as a page that a notebook shows of itself:

# %%
fxprune.report(small)
