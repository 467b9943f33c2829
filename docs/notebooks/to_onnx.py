# %% [markdown]
# # From PyTorch to ONNX
#
# Compress in PyTorch, deploy with ONNX Runtime: `pip install "fxprune[onnx]"`. Machine code for C++
# (AOTInductor) and `torch.export` files go the same way: [handing over](../hand-over.md).

# %%
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch

import fxprune
from fxprune.demo import data
from fxprune.demo.run import vgg

model, pictures = vgg(), data.load()
small = fxprune.compress(
    model, pictures.calibration, flops=0.5, method="channels", round_to="auto", progress=False
)
print(fxprune.report(small).summary())

# %% [markdown]
# `method="channels"` keeps every layer one layer, and `round_to="auto"` keeps widths that fill the
# processor's registers: equal FLOPs are not equal time.
#
# Both go to ONNX, with a free batch size.

# %%
folder = Path(tempfile.mkdtemp())


def export(net, name):
    """An ONNX file and a session that runs it on one thread."""
    file = folder / f"{name}.onnx"
    torch.onnx.export(
        net,
        (pictures.images[:2],),
        file,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        external_data=False,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


sessions = {"original": export(model, "original"), "small": export(small, "small")}

# %% [markdown]
# The file computes what the module computes:

# %%
tested = pictures.images[:500]
(found,) = sessions["small"].run(None, {"images": tested.numpy()})
with torch.no_grad():
    torch.testing.assert_close(torch.from_numpy(found), small(tested), rtol=1e-4, atol=1e-4)
    same = torch.from_numpy(found).argmax(1) == model(tested).argmax(1)
print(f"the same decision as the original in PyTorch: {same.float().mean():.1%}")

# %% [markdown]
# And the time, taking turns so that other work on the machine hits both:

# %%
batch = {"images": pictures.images[:32].numpy()}
times = {name: [] for name in sessions}
for _ in range(30):
    for name, session in sessions.items():
        start = time.perf_counter()
        session.run(None, batch)
        times[name].append(time.perf_counter() - start)
for name, taken in times.items():
    size = (folder / f"{name}.onnx").stat().st_size
    print(f"{name:8} {1e3 * statistics.median(taken):6.2f} ms for 32 images, {size / 1e3:,.0f} kB")
