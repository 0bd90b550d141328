# SPDX-License-Identifier: Apache-2.0
"""Random quantised networks of any shape; their numbers use their ranges, seldom the ends."""

import math

import numpy as np

from golden.activation import ActivationKind, ActivationSpec, gelu
from golden.requant import RequantSpec
from golden.softmax import SoftmaxSpec
from golden.vit import Block, Head, IntegerVit, LinearLayer, NormLayer

WEIGHT_RMS = 73


def random_vit(seed, *, channels=1, image=8, patch=2, dim=64, depth=2, heads=4, head_dim=16,
               hidden=256, classes=10, activation=ActivationKind.TABLE, table_width=10,
               index_bits=8, prefix=1):
    """Return an ``IntegerVit`` with random weights; the same for the same arguments.

    With ``prefix`` 2 it has a distillation token and two heads.
    """
    random = np.random.default_rng(seed)
    requant = RequantSpec()

    def linear(inputs, outputs, rms, operand_rms=40):
        """A layer whose results have the given rms when its operands do."""
        bias = operand_rms * WEIGHT_RMS * math.sqrt(inputs) / 2
        scale = rms * random.uniform(0.6, 1.4, outputs) / (2 * bias)
        mul, shift = requant.factors(scale)
        return LinearLayer(weight=random.integers(-127, 128, (inputs, outputs)),
                           bias=np.rint(random.normal(0, bias, outputs)).astype(np.int64),
                           mul=mul, shift=shift)

    def norm():
        gamma, beta = random.normal(0, [[35], [15]], (2, dim)) * 2**8
        return NormLayer(gamma=np.rint(gamma).clip(-32768, 32767).astype(np.int64),
                         beta=np.rint(beta).astype(np.int64), shift=20)

    def factor(scale):
        return (int(one) for one in requant.factors(scale))

    def head():
        score_mul, score_shift = factor(1 / 50 / math.sqrt(head_dim))
        mul, shift = factor(1.5)
        return Head(query=linear(dim, head_dim, 45), key=linear(dim, head_dim, 45),
                    value=linear(dim, head_dim, 45), score_mul=score_mul, score_shift=score_shift,
                    mul=mul, shift=shift)

    def block():
        table = None
        if activation == ActivationKind.TABLE:
            table = ActivationSpec(table_width=table_width).table(
                gelu, 512 / 2**table_width * random.uniform(0.015, 0.025), 0.03)
        return Block(norm1=norm(), heads=tuple(head() for _ in range(heads)),
                     exponents=SoftmaxSpec.table(random.uniform(0.02, 0.05)),
                     proj=linear(heads * head_dim, dim, 4000), norm2=norm(),
                     fc1=linear(dim, hidden, 2**table_width / 8 if table is not None else 45),
                     activation=activation, table=table, fc2=linear(hidden, dim, 4000))

    return IntegerVit(
        channels=channels, image=image, patch=patch,
        patch_embed=linear(channels * patch**2, dim, 5000, 74),
        position=np.rint(random.normal(
            0, 5000, ((image // patch)**2 + prefix, dim))).astype(np.int64),
        blocks=tuple(block() for _ in range(depth)), norm=norm(),
        head=linear(dim, classes, 5000), prefix=prefix,
        head_dist=linear(dim, classes, 5000) if prefix == 2 else None, index_bits=index_bits)
