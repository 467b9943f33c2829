"""What is known of a module at one moment."""

import torch
from torch import nn

from fxprune.passes.facts import tensors_of


def test_facts_hold_a_tensor_under_each_of_its_names() -> None:
    net, buffer, parameter = nn.Module(), torch.zeros(2), nn.Parameter(torch.zeros(3))
    for name in "ab":
        net.register_buffer(name, buffer)
    for name in "cd":
        net.register_parameter(name, parameter)
    assert tensors_of(net).keys() == set("abcd")
