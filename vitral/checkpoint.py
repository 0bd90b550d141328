# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as they are published: from timm's or Hugging Face's names to those of FloatVit."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.validate import require

__all__ = ["timm_names"]

WRAPPERS = ("module.", "model.", "timm_model.", "_orig_mod.")
"""What training scripts put before every name."""
LAYER = r"(?:encoder\.layer|layers)\.(\d+)\."
RENAMED = tuple((re.compile(rf"{old}\.(weight|bias)"), new) for old, new in (
    (r"embeddings\.patch_embeddings\.projection", r"patch_embed.proj.\1"),
    (rf"{LAYER}layernorm_before", r"blocks.\1.norm1.\2"),
    (rf"{LAYER}attention\.(?:attention\.query|q_proj)", r"blocks.\1.attn.query.\2"),
    (rf"{LAYER}attention\.(?:attention\.key|k_proj)", r"blocks.\1.attn.key.\2"),
    (rf"{LAYER}attention\.(?:attention\.value|v_proj)", r"blocks.\1.attn.value.\2"),
    (rf"{LAYER}attention\.(?:output\.dense|o_proj)", r"blocks.\1.attn.proj.\2"),
    (rf"{LAYER}layernorm_after", r"blocks.\1.norm2.\2"),
    (rf"{LAYER}(?:intermediate\.dense|mlp\.fc1)", r"blocks.\1.mlp.fc1.\2"),
    (rf"{LAYER}(?:output\.dense|mlp\.fc2)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm", r"norm.\1"),
    (r"(?:cls_)?classifier", r"head.\1"),
    (r"distillation_classifier", r"head_dist.\1"),
    (r"pooler\.dense", ""),     # not on the way to a classifier, which reads the tokens themselves
)) + tuple((re.compile(rf"embeddings\.{old}"), new) for old, new in (
    ("cls_token", "cls_token"), ("distillation_token", "dist_token"),
    ("position_embeddings", "pos_embed")))
"""Hugging Face's names without ``vit.`` or ``deit.``, of transformers 4 and 5, and timm's."""
FOREIGN = tuple((re.compile(pattern), what) for pattern, what in (
    (r"\.ls[12]\.|\.(gamma|lambda)_[12]$|layer_?scale", "LayerScale"),
    (r"(^|\.)fc_norm\.", "average pooling, whose LayerNorm is fc_norm"),
    (r"(^|\.)(reg_token|register_tokens)$", "register tokens"),
    (r"\.[qk]_norm\.", "normalised queries and keys"),
    (r"relative_position|rel_pos", "relative positions"),
    (r"(^|\.)(mask_token|decoder)", "masked image modelling"),
    (r"(^|\.)(norm_pre|pre_layrnorm)\.", "a LayerNorm before the encoder"),
    (r"^swin|^layers\.\d+\.(blocks|downsample)\.", "Swin"),
    (r"(^|\.)(attn_pool|pre_logits)\.", "another kind of head"),
))
"""Parts of Vision Transformers that are no plain ones, by a name that gives them away."""

Tensors = dict[str, NDArray[Any]]


def timm_names(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Return a checkpoint's tensors under the names that :class:`FloatVit` reads: timm's.

    Accepted are timm's ``VisionTransformer`` and ``VisionTransformerDistilled``, and Hugging Face's
    ``ViTForImageClassification``, ``DeiTForImageClassification`` and
    ``DeiTForImageClassificationWithTeacher``; queries, keys and values are put together, a pooler
    is left out. ``module.`` and the like before all names are taken off.

    ``ValueError`` names a tensor that is no part of such a network, or is missing.
    """
    found = dict(sorted(tensors.items()))   # a file has no order that would always be the same
    for wrapper in WRAPPERS * 2:
        if found and all(name.startswith(wrapper) for name in found):
            found = {name.removeprefix(wrapper): value for name, value in found.items()}
    for name in found:
        for pattern, what in FOREIGN:
            require(not pattern.search(name),
                    f"tensor {name} must be part of a plain Vision Transformer, not of {what}")
    if any(re.match(r"((vit|deit)\.)?embeddings\.", name) for name in found):
        return from_hugging_face(found)
    known = [name for name in found if name.startswith(("blocks.", "patch_embed."))]
    require(bool(known), "tensors must have timm's names, such as blocks.0.norm1.weight, or "
            "Hugging Face's, such as vit.encoder.layer.0.layernorm_before.weight, not such as "
            f"{min(found, default='none at all')}")
    return found


def from_hugging_face(tensors: Tensors) -> Tensors:
    """Return the tensors of a Hugging Face checkpoint under timm's names."""
    named: dict[str, tuple[str, NDArray[Any]]] = {}
    for old, value in tensors.items():
        short = re.sub(r"^(vit|deit)\.", "", old)
        matches = ((pattern.fullmatch(short), new) for pattern, new in RENAMED)
        name = next((match.expand(new) for match, new in matches if match), None)
        require(name is not None, f"tensor {old} must be part of a plain Vision Transformer, not "
                "an addition to it")
        if name:
            require(name not in named, f"tensor {old} must not be there beside "
                    f"{named.get(name, ('',))[0]}, whose place it takes")
            named[name] = old, value
    for name in ("head.weight", "head.bias"):
        require(name in named, f"tensor {name.replace('head', 'classifier')} must be in the "
                "checkpoint, not missing")
    together: Tensors = {}
    for name, (old, value) in named.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)(query|key|value)\.(weight|bias)", name)
        if match is None:
            together[name] = value
            continue
        parts = []
        for part in ("query", "key", "value"):
            wanted = f"{match[1]}{part}.{match[3]}"
            require(wanted in named,
                    f"the {part} beside {old} must be in the checkpoint, not missing")
            other, found = named[wanted]
            require(found.shape == value.shape,
                    f"tensor {other} must have shape {value.shape} like {old}, not {found.shape}")
            parts.append(found)
        together[f"{match[1]}qkv.{match[3]}"] = np.concatenate(parts)
    return together
