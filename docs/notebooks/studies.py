# %% [markdown]
# # The paper's studies, in short
#
# Chee, Flynn, Damle and De Sa (NeurIPS 2022) remove channels that the others interpolate, and ask
# how many can go, from which layers, and how much data that takes. `method="paper"` is their
# method. We ask the same on the demo network, with the original's own decisions as the measure;
# nothing is fine-tuned.

# %%
import torch

import fxprune
from fxprune.demo import data
from fxprune.demo.run import vgg

model, pictures = vgg(), data.load()
calibration, tested = pictures.calibration, pictures.images[:2000]
with torch.no_grad():
    decided = model(tested).argmax(1)


def disagreement(small) -> float:
    """How many of the 2,000 test images are decided otherwise, in percent."""
    with torch.no_grad():
        return 100 * (small(tested).argmax(1) != decided).float().mean().item()


# %% [markdown]
# ## Which layers: iterative allocation against a constant fraction
#
# The iterative allocation takes channels where the interpolation loses least; the constant fraction
# takes the same share everywhere. `uniform` also takes the same share, and refits every layer to
# the original's outputs.

# %%
half = {
    method: fxprune.compress(model, calibration, flops=0.5, method=method, progress=False)
    for method in ("paper", "paper-uniform", "uniform")
}
for method, small in half.items():
    print(f"{method:14} {disagreement(small):.1f} % decided otherwise at half the FLOPs")

# %% [markdown]
# ## How much data: the size of the calibration set

# %%
fewer = {
    count: fxprune.compress(model, calibration[:count], flops=0.5, method="paper", progress=False)
    for count in (100, 300)
}
for count, small in {**fewer, 1000: half["paper"]}.items():
    print(f"{count:5} images: {disagreement(small):.1f} %")

# %% [markdown]
# ## What data: a class that calibration never saw
#
# Which pictures the original takes for shirts (class 6) needs no labels either.

# %%
with torch.no_grad():
    seen = torch.cat([model(x).argmax(1) for x in calibration.split(250)])
without = fxprune.compress(model, calibration[seen != 6], flops=0.5, method="paper", progress=False)
for name, small in (("all classes", half["paper"]), ("without shirts", without)):
    with torch.no_grad():
        missed = small(tested).argmax(1) != decided
    print(
        f"{name:15} shirts {100 * missed[decided == 6].float().mean():.1f} %, "
        f"the others {100 * missed[decided != 6].float().mean():.1f} %"
    )

# %% [markdown]
# ## Where the error comes from
#
# Per layer: the channels that are left, and the error that their layer shows on examples that were
# held out.

# %%
for row in fxprune.report(half["paper"]).groups:
    measured = "" if row.measured is None else f", measured {row.measured:.1e}"
    print(f"{row.name:14} {row.before:4} -> {row.after:4}{measured}")
