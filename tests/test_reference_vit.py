# SPDX-License-Identifier: Apache-2.0
"""FloatVit equals a forward pass written another way, and PyTorch's; it refuses bad checkpoints."""
import math

import numpy as np
import pytest

from golden.reference.vit import FloatVit, erf

SIZES = [  # image, patch, channels, dim, depth, heads, hidden, classes
    (8, 2, 1, 12, 2, 3, 20, 10),
    (15, 5, 3, 8, 1, 1, 7, 3),
    (12, 3, 2, 16, 3, 4, 32, 5),
]


def checkpoint(image, patch, channels, dim, depth, heads, hidden, classes, qkv_bias=True,
               prefix=1):
    """Return random tensors under timm's names, in float32; with ``prefix`` 2 distilled ones."""
    random = np.random.default_rng(image)
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, (image // patch) ** 2 + prefix, dim),
              "patch_embed.proj.weight": (dim, channels, patch, patch),
              "patch_embed.proj.bias": (dim,), "norm.weight": (dim,), "norm.bias": (dim,),
              "head.weight": (classes, dim), "head.bias": (classes,)}
    for block in range(depth):
        for name, shape in {"norm1": (dim,), "norm2": (dim,), "attn.qkv": (3 * dim, dim),
                            "attn.proj": (dim, dim), "mlp.fc1": (hidden, dim),
                            "mlp.fc2": (dim, hidden)}.items():
            shapes[f"blocks.{block}.{name}.weight"] = shape
            if qkv_bias or name != "attn.qkv":
                shapes[f"blocks.{block}.{name}.bias"] = shape[:1]
    if prefix == 2:
        shapes |= {"dist_token": (1, 1, dim), "head_dist.weight": (classes, dim),
                   "head_dist.bias": (classes,)}
    return {name: (random.normal(size=shape) * 0.5).astype(np.float32)
            for name, shape in shapes.items()}


def einsum_forward(w, images, heads, activation):
    """The same network over explicit indices: a strided convolution, one head at a time."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    kernel = w["patch_embed.proj.weight"]
    dim, _, patch, _ = kernel.shape

    def affine(x, name):
        bias = w.get(f"{name}.bias", np.zeros(len(w[f"{name}.weight"])))
        return np.einsum("ntj,ij->nti", x, w[f"{name}.weight"]) + bias

    def norm(x, name):
        scaled = (x - x.mean(2)[:, :, None]) / np.sqrt(x.var(2)[:, :, None] + 1e-6)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    prefix = [w[name] for name in ("cls_token", "dist_token") if name in w]
    rows = [token[0].repeat(len(images), 0) for token in prefix]
    for top in range(0, images.shape[2], patch):
        for left in range(0, images.shape[3], patch):
            window = images[:, :, top:top + patch, left:left + patch]
            rows.append(np.einsum("nchw,dchw->nd", window, kernel) + w["patch_embed.proj.bias"])
    x = np.stack(rows, 1) + w["pos_embed"]
    size = dim // heads
    for block in range(sum(name.endswith("norm1.bias") for name in w)):
        qkv = affine(norm(x, f"blocks.{block}.norm1"), f"blocks.{block}.attn.qkv")
        mixed = []
        for head in range(heads):
            query, key, value = (qkv[:, :, start:start + size] for start in range(
                head * size, 3 * dim, dim))
            weight = np.exp(np.einsum("nqd,nkd->nqk", query, key) / size ** 0.5)
            mixed.append(np.einsum("nqk,nkd->nqd", weight, value)
                         / np.einsum("nqk->nq", weight)[:, :, None])
        x = x + affine(np.concatenate(mixed, 2), f"blocks.{block}.attn.proj")
        hidden = affine(norm(x, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1")
        x = x + affine(np.vectorize({
            "relu": lambda v: max(v, 0.0),
            "gelu": lambda v: v * 0.5 * math.erfc(-v / math.sqrt(2)),
        }[activation])(hidden), f"blocks.{block}.mlp.fc2")
    logits = affine(norm(x, "norm"), "head")[:, 0]
    if "head_dist.weight" not in w:
        return logits
    return 0.5 * logits + 0.5 * affine(norm(x, "norm"), "head_dist")[:, 1]


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_equals_an_independent_forward(size, prefix, qkv_bias, activation):
    tensors = checkpoint(*size, qkv_bias=qkv_bias, prefix=prefix)
    image, _, channels, _, _, heads, _, classes = size
    images = np.random.default_rng(1).normal(size=(3, channels, image, image))
    logits = FloatVit(tensors, heads=heads, activation=activation).forward(images)
    assert logits.shape == (3, classes)
    np.testing.assert_allclose(logits, einsum_forward(tensors, images, heads, activation),
                               rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", SIZES)
def test_equals_pytorch(size):
    torch = pytest.importorskip("torch")
    from models.vit_torch import VisionTransformer
    image, patch, channels, dim, depth, heads, hidden, classes = size
    twin = VisionTransformer(image=image, patch=patch, channels=channels, dim=dim, depth=depth,
                             heads=heads, hidden=hidden, classes=classes).double().eval()
    tensors = checkpoint(*size)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    images = np.random.default_rng(2).normal(size=(4, channels, image, image))
    with torch.no_grad():
        expected = twin(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(FloatVit(tensors, heads=heads).forward(images), expected,
                               rtol=0, atol=1e-11)


def test_erf_is_exact_to_double_precision():
    x = np.concatenate([np.linspace(-7, 7, 140_001), [1e-300, -1e-9, np.inf, -np.inf]])
    exact = np.array([math.erf(value) for value in x])
    assert np.abs(erf(x) - exact).max() < 1e-15
    assert np.abs(erf(x.astype(np.float32)) - exact).max() < 2e-7
    assert erf(x.astype(np.float32)).dtype == np.float32
    assert np.isnan(erf(np.array([np.nan]))).all()


def test_a_distillation_token_may_come_without_its_head():
    tensors = checkpoint(*SIZES[0], prefix=2)
    distilled = FloatVit(tensors, heads=3)
    del tensors["head_dist.weight"], tensors["head_dist.bias"]
    alone = FloatVit(tensors, heads=3)
    assert (distilled.prefix, distilled.distilled, distilled.tokens) == (2, True, 18)
    assert (alone.prefix, alone.distilled, alone.grid) == (2, False, 4)
    images, seen = np.random.default_rng(5).normal(size=(2, 1, 8, 8)), {}
    logits = distilled.forward(images, seen.__setitem__)
    assert list(seen)[-5:] == ["norm", "norm_dist", "head", "head_dist", "logits"]
    np.testing.assert_array_equal(logits, (seen["head"] + seen["head_dist"]) / 2)
    np.testing.assert_array_equal(alone.forward(images), seen["head"])
    np.testing.assert_allclose(alone.forward(images), einsum_forward(tensors, images, 3, "gelu"),
                               rtol=0, atol=1e-11)


def test_sizes_come_from_the_tensors():
    vit = FloatVit(checkpoint(*SIZES[1]), heads=1)
    assert (vit.image, vit.patch, vit.channels, vit.grid, vit.tokens) == (15, 5, 3, 3, 10)
    assert (vit.dim, vit.depth, vit.heads, vit.head_dim, vit.hidden, vit.classes) == (
        8, 1, 1, 8, 7, 3)


def test_observe_sees_every_intermediate_once_and_changes_nothing():
    size = SIZES[0]
    vit = FloatVit(checkpoint(*size), heads=3)
    images = np.random.default_rng(3).normal(size=(2, 1, 8, 8))
    seen = {}

    def observe(name, array):
        assert name not in seen
        seen[name] = array.copy()

    np.testing.assert_array_equal(vit.forward(images, observe), vit.forward(images))
    block = ("norm1", "q", "k", "v", "scores", "probabilities", "attn", "proj", "residual1",
             "norm2", "fc1", "hidden", "fc2", "residual2")
    assert list(seen) == ["patches", "patch_embed", "embed",
                          *(f"blocks.{index}.{name}" for index in range(2) for name in block),
                          "norm", "logits"]
    assert {name: seen[name].shape for name in ("patches", "embed", "blocks.1.q",
                                                "blocks.1.scores", "blocks.1.hidden", "norm")} == {
        "patches": (2, 16, 4), "embed": (2, 17, 12), "blocks.1.q": (2, 3, 17, 4),
        "blocks.1.scores": (2, 3, 17, 17), "blocks.1.hidden": (2, 17, 20), "norm": (2, 12)}
    query, key = seen["blocks.0.q"], seen["blocks.0.k"]
    np.testing.assert_allclose(seen["blocks.0.scores"],
                               np.einsum("nhqd,nhkd->nhqk", query, key) / 2, atol=1e-12)
    np.testing.assert_allclose(seen["blocks.0.residual1"],
                               seen["embed"] + seen["blocks.0.proj"], atol=1e-12)
    np.testing.assert_allclose(seen["blocks.1.residual2"],
                               seen["blocks.1.residual1"] + seen["blocks.1.fc2"], atol=1e-12)
    np.testing.assert_array_equal(seen["patches"][0, 1], images[0, 0, :2, 2:4].ravel())


def test_predict_does_not_depend_on_the_batch():
    vit = FloatVit(checkpoint(*SIZES[0]), heads=3)
    images = np.random.default_rng(4).normal(size=(7, 1, 8, 8))
    np.testing.assert_array_equal(vit.predict(images, batch=3), vit.forward(images).argmax(1))


def without(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.__setitem__(name, np.asarray(value))


@pytest.mark.parametrize(("damage", "sentence"), [
    (without("head.bias"), r"tensor head\.bias must be in the checkpoint, not missing"),
    (without("blocks.1.mlp.fc2.weight"),
     r"tensor blocks\.1\.mlp\.fc2\.weight must be in the checkpoint, not missing"),
    (without("patch_embed.proj.weight"),
     r"tensor patch_embed\.proj\.weight must be in the checkpoint, not missing"),
    (put("norm.weight", np.ones(13)), r"tensor norm\.weight must have shape \(12,\), not \(13,\)"),
    (put("blocks.0.attn.qkv.weight", np.ones((12, 36))),
     r"tensor blocks\.0\.attn\.qkv\.weight must have shape \(36, 12\), not \(12, 36\)"),
    (put("blocks.0.attn.qkv.weight", np.ones(36)),
     r"tensor blocks\.0\.attn\.qkv\.weight must have 2 dimensions, not shape \(36,\)"),
    (put("cls_token", np.full((1, 1, 12), np.nan)),
     r"tensor cls_token must be finite, not NaN or infinite"),
    (put("head.bias", np.full(10, -np.inf)),
     r"tensor head\.bias must be finite, not NaN or infinite"),
    (put("head.bias", np.arange(10)), r"tensor head\.bias must be floating point, not int64"),
    (put("pos_embed", np.ones((1, 19, 12))),
     r"tokens must be 1 \+ a square number of patches \(a square image\), not 19"),
    (put("patch_embed.proj.weight", np.ones((12, 1, 2, 3))),
     r"patch must be square, not 2 x 3"),
    (put("dist_token", np.ones((1, 1, 12))),
     r"tokens must be 2 \+ a square number of patches \(a square image\), not 17"),
    (put("head_dist.weight", np.ones((10, 12))),
     r"tensor head_dist\.weight must be part of a plain Vision Transformer, not an addition to it"),
    (put("blocks.0.ls1.gamma", np.ones(12)),
     r"tensor blocks\.0\.ls1\.gamma must be part of a plain Vision Transformer, not an .*"),
])
def test_refuses_a_damaged_checkpoint(damage, sentence):
    tensors = checkpoint(*SIZES[0])
    damage(tensors)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        FloatVit(tensors, heads=3)


@pytest.mark.parametrize(("arguments", "error", "sentence"), [
    ({"heads": 5}, ValueError, "heads must divide the width 12, not 5"),
    ({"heads": 0}, ValueError, "heads must be an integer of at least 1, not 0"),
    ({"heads": 2.0}, TypeError, r"heads must be an integer of at least 1, not 2\.0"),
    ({"heads": 3, "activation": "tanh"}, ValueError,
     "activation must be one of gelu, relu, not 'tanh'"),
])
def test_refuses_bad_arguments(arguments, error, sentence):
    with pytest.raises(error, match=f"^{sentence}$"):
        FloatVit(checkpoint(*SIZES[0]), **arguments)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 3, 8, 8), (2, 1, 8, 10)])
def test_refuses_images_of_another_shape(shape):
    vit = FloatVit(checkpoint(*SIZES[0]), heads=3)
    with pytest.raises(ValueError, match=r"^images must have shape \(N, 1, 8, 8\), not \("):
        vit.forward(np.zeros(shape))
