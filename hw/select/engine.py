# SPDX-License-Identifier: Apache-2.0
"""What the engines of a selector have in common: how they are asked, and what they answer."""

from amaranth.hdl import unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.topk import TopKSpec


def row_layout(spec: TopKSpec) -> data.StructLayout:
    """Return the layout of a row of scores, of which those under ``mask`` take part."""
    return data.StructLayout({
        "valid": 1,
        "last": 1,
        "mask": spec.lanes,
        "scores": data.ArrayLayout(unsigned(spec.width), spec.lanes),
    })


class Engine(wiring.Component):
    """Find the score down to which a vector is kept, and how many that equal it.

    The rows of a vector pass at ``load`` as they arrive and are stored. After the last one, not
    earlier than in the next cycle, ``start`` asks for the ``keep`` greatest. Until ``done`` the
    engine may ask for the stored rows again.

    Members
    -------
    load : ``In(row_layout(spec))``
        A row that arrives; only while ``ready``, and not from the last row of a vector to ``start``
        (the cycle included).
    ready : ``Out(1)``
        A row of the next vector may arrive. From registers.
    start : ``In(1)``
        Begin. Not before ``done`` of the vector before, and when its answer is not needed any more
        after this cycle.
    keep : ``In(unsigned(spec.count_width))``
        With ``start``: how many of the scores to keep; all of them if there are not more.
    scan : ``Out(1)``
        Wants all rows in ``row``, one per cycle from the next cycle on.
    row : ``In(row_layout(spec))``
        A stored row.
    done : ``Out(1)``
        The answer stands from the next cycle on.
    threshold : ``Out(unsigned(spec.width))``
        Scores above it are kept.
    equals : ``Out(unsigned(spec.count_width))``
        Of the scores that equal it, the first so many are kept too.
    """

    def __init__(self, spec: TopKSpec):
        if not isinstance(spec, TopKSpec):
            raise TypeError(f"spec must be a TopKSpec, not {spec!r}")
        self._spec = spec
        super().__init__({
            "load": In(row_layout(spec)),
            "ready": Out(1),
            "start": In(1),
            "keep": In(unsigned(spec.count_width)),
            "scan": Out(1),
            "row": In(row_layout(spec)),
            "done": Out(1),
            "threshold": Out(unsigned(spec.width)),
            "equals": Out(unsigned(spec.count_width)),
        })

    @property
    def spec(self) -> TopKSpec:
        """What is implemented."""
        return self._spec
