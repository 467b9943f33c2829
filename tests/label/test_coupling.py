"""Golden text of what is solved for: names of groups, their blocks, what stays and why."""

import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fxprune.capture.batch import make_batch
from fxprune.capture.export import capture
from fxprune.label.analysis import analyze_graph
from fxprune.label.coupling import solve
from fxprune.label.groups import Analysis
from fxprune.label.propagation import Propagation
from tests.blocks import conv
from tests.nets import Net


def analyzed(net: nn.Module, *shape: int) -> Analysis:
    captured = capture(net.eval(), make_batch((torch.zeros(2, *(shape or (3, 4, 4))),), {}))
    return analyze_graph(captured.graph, 2)


def stays(analysis: Analysis) -> str:
    return "\n".join(f"{p.parameter}[{p.axis}]: {p.reason}" for p in analysis.pinned)


def test_one_layer_in_two_groups_is_numbered() -> None:
    net = Net(
        lambda s, x: s.b(s.a(x)[:, :4]) + s.c(s.a(x)[:, 4:]),
        a=conv(3, 10),
        b=conv(4, 2),
        c=conv(6, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
a: 4 | a.weight[0] a.bias[0] -> b.weight[1]
a#2: 6 | a.weight[0] a.bias[0] -> c.weight[1]""",
    )


def test_what_stays_says_why() -> None:
    net = Net(
        lambda s, x: s.d(F.softmax(s.b(s.a(x)), 1)) + x.sum(1, keepdim=True),
        a=conv(3, 6),
        b=conv(6, 5),
        d=conv(5, 2),
    )
    analysis = analyzed(net)
    assert_expected_inline(str(analysis), """a: 6 | a.weight[0] a.bias[0] -> b.weight[1]""")
    assert_expected_inline(
        stays(analysis),
        """\
a.weight[1]: reads channels that stay (a: conv2d)
b.weight[0]: every channel takes part in a softmax, sum or ordering (model: softmax)
b.bias[0]: every channel takes part in a softmax, sum or ordering (model: softmax)
d.weight[0]: is the model's output (output)
d.weight[1]: reads channels that stay (d: conv2d_2)
d.bias[0]: is the model's output (output)""",
    )


def test_groups_of_a_convolution_and_halves_that_nest() -> None:
    net = Net(
        lambda s, x: s.c(s.g(s.a(x)).unflatten(1, (2, 4)).relu().flatten(1, 2)),
        a=conv(3, 8),
        g=conv(8, 8, groups=4),
        c=conv(8, 2),
    )
    assert_expected_inline(
        str(analyzed(net)),
        """\
a: 2 x 4 blocks | a.weight[0] a.bias[0] -> g.weight[1]
g: 2 x 4 blocks | g.weight[0] g.bias[0] -> c.weight[1]""",
    )


def test_blocks_that_do_not_nest_stay() -> None:
    net = Net(
        lambda s, x: s.c(s.h(s.g(s.a(x)))),
        a=conv(3, 8),
        g=conv(8, 12, groups=4),
        h=conv(12, 6, groups=3),
        c=conv(6, 2),
    )
    analysis = analyzed(net)
    assert_expected_inline(
        str(analysis),
        """\
a: 2 x 4 blocks | a.weight[0] a.bias[0] -> g.weight[1]
h: 2 x 3 blocks | h.weight[0] h.bias[0] -> c.weight[1]""",
    )
    assert_expected_inline(
        stays(analysis),
        """\
a.weight[1]: reads channels that stay (a: conv2d)
g.weight[0]: its block structures do not nest
g.bias[0]: its block structures do not nest
h.weight[1]: its block structures do not nest
c.weight[0]: is the model's output (output)
c.bias[0]: is the model's output (output)""",
    )


def test_a_weight_that_is_read_in_another_way_too_is_not_foldable() -> None:
    net = Net(
        lambda s, x: s.b(s.a(x)) + s.b.weight.square().mean(),
        a=conv(3, 6),
        b=conv(6, 2),
    )
    assert ("b.weight", 1) not in analyzed(net).foldable
    plain = Net(lambda s, x: s.b(s.a(x)), a=conv(3, 6), b=conv(6, 2))
    assert ("b.weight", 1) in analyzed(plain).foldable


def test_ids_count_through_the_groups_and_lead_back_to_labels() -> None:
    net = nn.Sequential(conv(3, 6), conv(6, 4), conv(4, 2))
    captured = capture(net.eval(), make_batch((torch.zeros(2, 3, 4, 4),), {}))
    run = Propagation(captured.graph, lambda name: False)
    run.run()
    coupling = solve(captured.graph, run, 2)
    ids = [group.blocks.reshape(-1).tolist() for group in coupling.analysis.groups]
    assert sum(ids, []) == list(range(1, 11))
    # A channel's label is that of the weight row that makes it.
    made = run.record.axes["0.weight", 0].labels
    assert coupling.label[ids[0]].tolist() == made.tolist()


def test_the_general_operator_is_grouped_too() -> None:
    class General(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.g, self.b = conv(3, 8), conv(8, 8, groups=2), conv(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.convolution(
                self.a(x), self.g.weight, self.g.bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 2
            )
            out: torch.Tensor = self.b(y)
            return out

    usual = Net(lambda s, x: s.b(s.g(s.a(x))), a=conv(3, 8), g=conv(8, 8, groups=2), b=conv(8, 2))
    assert str(analyzed(General())) == str(analyzed(usual))


def test_many_groups_are_told_by_the_patterns_of_their_names() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(3, 9)
            self.layer = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(9, 5 + 2 * (i % 2)), nn.ReLU(), nn.Linear(5 + 2 * (i % 2), 9)
                )
                for i in range(30)
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for layer in self.layer:
                x = torch.nn.functional.layer_norm(layer(x), (9,))
            return x

    assert_expected_inline(
        str(analyzed(Deep(), 3)),
        """\
 1 x stem: 9
     -> layer.0.0.weight[1]
15 x layer.*.0: 5
     -> layer.*.2.weight[1]
29 x layer.*.2: 9
     -> layer.*.0.weight[1]
15 x layer.*.0: 7
     -> layer.*.2.weight[1]
60 groups in .groups; 3 weight axes left alone in .pinned, with reasons.""",
    )
