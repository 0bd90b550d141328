# SPDX-License-Identifier: Apache-2.0
"""Published names of weights become timm's; what is no plain Vision Transformer is refused."""
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from golden.reference.vit import FloatVit
from tests.test_reference_vit import checkpoint
from vitral.checkpoint import timm_names
from vitral.cli import main

SIZE = (8, 2, 1, 12, 2, 3, 20, 10)  # image, patch, channels, width, depth, heads, hidden, classes
LAYERS = {4: ("encoder.layer.{}", "attention.output.dense", "intermediate.dense", "output.dense",
              "attention.attention.query", "attention.attention.key", "attention.attention.value"),
          5: ("layers.{}", "attention.o_proj", "mlp.fc1", "mlp.fc2", "attention.q_proj",
              "attention.k_proj", "attention.v_proj")}


def hugging_face(tensors, version=4, teacher=True):
    """Return timm's tensors as Hugging Face's ViT (or DeiT, if distilled) has them."""
    layer, proj, fc1, fc2, *qkv = LAYERS[version]
    base = "deit" if "dist_token" in tensors else "vit"
    named = {f"{base}.embeddings.cls_token": tensors["cls_token"],
             f"{base}.embeddings.position_embeddings": tensors["pos_embed"]}
    if base == "deit":
        named["deit.embeddings.distillation_token"] = tensors["dist_token"]
    for kind in ("weight", "bias"):
        named[f"{base}.embeddings.patch_embeddings.projection.{kind}"] = \
            tensors[f"patch_embed.proj.{kind}"]
        named[f"{base}.layernorm.{kind}"] = tensors[f"norm.{kind}"]
        if base == "deit" and teacher:
            named[f"cls_classifier.{kind}"] = tensors[f"head.{kind}"]
            named[f"distillation_classifier.{kind}"] = tensors[f"head_dist.{kind}"]
        else:
            named[f"classifier.{kind}"] = tensors[f"head.{kind}"]
        for index in range(2):
            at, block = f"{base}.{layer.format(index)}", f"blocks.{index}"
            for old, new in (("norm1", "layernorm_before"), ("attn.proj", proj),
                             ("norm2", "layernorm_after"), ("mlp.fc1", fc1), ("mlp.fc2", fc2)):
                named[f"{at}.{new}.{kind}"] = tensors[f"{block}.{old}.{kind}"]
            if f"{block}.attn.qkv.{kind}" in tensors:
                for part, name in enumerate(qkv):
                    named[f"{at}.{name}.{kind}"] = \
                        tensors[f"{block}.attn.qkv.{kind}"][12 * part:12 * part + 12]
    return named


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("version", LAYERS)
def test_hugging_faces_names_are_timms(version, prefix, qkv_bias):
    tensors = checkpoint(*SIZE, prefix=prefix, qkv_bias=qkv_bias)
    assert same(timm_names(hugging_face(tensors, version)), tensors)
    assert same(timm_names(tensors), tensors)
    assert FloatVit(timm_names(tensors), heads=3).distilled == (prefix == 2)


def test_a_distillation_token_without_a_teachers_head():
    tensors = checkpoint(*SIZE, prefix=2)
    found = timm_names(hugging_face(tensors, teacher=False))
    assert found.keys() == tensors.keys() - {"head_dist.weight", "head_dist.bias"}
    vit = FloatVit(found, heads=3)
    assert (vit.prefix, vit.distilled) == (2, False)


@pytest.mark.parametrize("wrapper", ["module.", "model.", "module.model.", "_orig_mod.",
                                     "timm_model."])
def test_wrappers_are_taken_off(wrapper):
    tensors = checkpoint(*SIZE)
    for named in (tensors, hugging_face(tensors)):
        assert same(timm_names({wrapper + name: value for name, value in named.items()}), tensors)


def test_a_pooler_is_left_out():
    tensors = checkpoint(*SIZE)
    pooler = {"vit.pooler.dense.weight": np.ones((12, 12)), "vit.pooler.dense.bias": np.ones(12)}
    assert same(timm_names(hugging_face(tensors) | pooler), tensors)


PLAIN = "must be part of a plain Vision Transformer, not"
ONE = np.ones((12,), np.float32)


@pytest.mark.parametrize(("name", "sentence"), [
    ("blocks.0.ls1.gamma", f"{PLAIN} of LayerScale"),
    ("blocks.1.gamma_1", f"{PLAIN} of LayerScale"),
    ("fc_norm.weight", f"{PLAIN} of average pooling, whose LayerNorm is fc_norm"),
    ("reg_token", f"{PLAIN} of register tokens"),
    ("blocks.0.attn.q_norm.weight", f"{PLAIN} of normalised queries and keys"),
    ("blocks.0.attn.relative_position_bias_table", f"{PLAIN} of relative positions"),
    ("mask_token", f"{PLAIN} of masked image modelling"),
    ("norm_pre.weight", f"{PLAIN} of a LayerNorm before the encoder"),
    ("layers.0.blocks.0.norm1.weight", f"{PLAIN} of Swin"),
    ("pre_logits.fc.weight", f"{PLAIN} of another kind of head"),
    ("vit.embeddings.mask_token", f"{PLAIN} of masked image modelling"),
    ("decoder.0.weight", f"{PLAIN} of masked image modelling"),
    ("vit.encoder.layer.0.layer_scale1.lambda1", f"{PLAIN} of LayerScale"),
    ("vit.encoder.layer.0.attention.gate.weight", f"{PLAIN} an addition to it"),
    ("vit.encoder.layer.0.mlp.weights_in.weight", f"{PLAIN} an addition to it"),
    ("cls_classifier.weight", "must not be there beside classifier.weight, whose place it takes"),
])
def test_refuses_additions_by_name(name, sentence):
    tensors = checkpoint(*SIZE)
    if name.startswith(("vit.", "cls_", "decoder.")):
        tensors = hugging_face(tensors)
    with pytest.raises(ValueError, match=f"^tensor {re.escape(f'{name} {sentence}')}$"):
        timm_names(tensors | {name: ONE})


@pytest.mark.parametrize(("name", "value", "sentence"), [
    ("classifier.weight", None, "tensor classifier.weight must be in the checkpoint, not missing"),
    ("classifier.bias", None, "tensor classifier.bias must be in the checkpoint, not missing"),
    ("vit.encoder.layer.1.attention.attention.key.bias", None,
     ("the key beside vit.encoder.layer.1.attention.attention.query.bias must be in the "
      "checkpoint, not missing")),
    ("vit.encoder.layer.0.attention.attention.key.weight", np.ones((13, 12)),
     ("tensor vit.encoder.layer.0.attention.attention.query.weight must have shape (13, 12) like "
      "vit.encoder.layer.0.attention.attention.key.weight, not (12, 12)")),
])
def test_refuses_damaged_checkpoints(name, value, sentence):
    tensors = hugging_face(checkpoint(*SIZE)) | {name: value}
    if value is None:
        del tensors[name]
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        timm_names(tensors)


@pytest.mark.parametrize("names", [
    ["conv1.weight", "fc.weight"], ["beit.encoder.layer.0.layernorm_before.weight"], []])
def test_refuses_other_networks(names):
    shown = min(names, default="none at all")
    with pytest.raises(ValueError, match=r"^tensors must have timm's names, such as blocks\.0\."
                       r"norm1\.weight, or Hugging Face's, such as vit\.encoder\.layer\.0\."
                       rf"layernorm_before\.weight, not such as {re.escape(shown)}$"):
        timm_names({name: ONE for name in names})


@pytest.mark.parametrize("name", ["model.bin", "model.pth", "model.pt"])
def test_a_pickle_is_not_opened(name, tmp_path, capsys):
    assert main(["estimate", "--on", "rowwise", "--weights", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == (
        f"vitral: {tmp_path / name} must be a .safetensors file, not a pickled one: PyTorch "
        f"converts it, with safetensors.torch.save_file(torch.load({name!r}, weights_only=True), "
        "'model.safetensors')\n")


def test_the_command_line_refuses_in_one_sentence(tmp_path, capsys):
    tensors = hugging_face(checkpoint(*SIZE))
    del tensors["classifier.weight"]
    path = tmp_path / "w.safetensors"
    save_file(tensors, path)
    assert main(["estimate", "--on", "rowwise", "--weights", str(path), "--heads", "3"]) == 2
    assert capsys.readouterr().err == (f"vitral: {path}: tensor classifier.weight must be in the "
                                       "checkpoint, not missing\n")


@pytest.mark.parametrize("prefix", [1, 2])
def test_both_namings_give_the_same_logits_in_rtl(prefix, tmp_path, capsys):
    """A small network, distilled or not, from a file of either kind to the simulated core."""
    tensors = checkpoint(*SIZE, prefix=prefix)
    images = np.random.default_rng(prefix).normal(size=(2, 1, 8, 8))
    np.save(tmp_path / "x.npy", images)
    logits = []
    for kind, named in (("timm", tensors), ("face", hugging_face(tensors))):
        save_file({name: np.ascontiguousarray(value) for name, value in named.items()},
                  tmp_path / f"{kind}.safetensors")
        engine = ["--engine", "rtl", "--trace"] if kind == "face" else []
        assert main(["run", "--on", "rowwise", "--preset", "tiny", "--weights",
                     str(tmp_path / f"{kind}.safetensors"), "--heads", "3", "--inputs",
                     str(tmp_path / "x.npy"), "--outputs", str(tmp_path / "y.npy"), *engine]) == 0
        logits.append(np.load(tmp_path / "y.npy"))
    assert "bit exact         yes" in capsys.readouterr().out
    np.testing.assert_array_equal(*logits)
    exact = FloatVit(tensors, heads=3).forward(images)
    assert np.linalg.norm(logits[0] - exact) < 0.05 * np.linalg.norm(exact)
