# SPDX-License-Identifier: Apache-2.0
"""What is to be run: a network and its images, shipped with the project or the user's own."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from golden.reference.vit import FloatVit
from golden.spatten.spec import SpattenSpec
from golden.topk import Rule
from models.zoo import model
from vitral.checkpoint import timm_names
from vitral.sparse import Sparsity, choices, sparsity
from vitral.usage import UsageError, refusing

__all__ = ["HEAD_WIDTH", "Task", "float_network", "load_weights", "task", "wanted"]

HEAD_WIDTH = 64
"""Width of a head where neither the user nor the weight file says how many there are."""
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network, what it is run on, and what its scales are fitted to.

    ``labels`` is None where nobody knows them; ``calibration`` are images like ``images``;
    ``sparsity`` is what is left out; ``scores`` (images, choices, tokens) are what tokens are
    chosen by, if not by attention.
    """

    name: str
    network: FloatVit
    images: NDArray[np.floating]
    labels: NDArray[np.int64] | None
    calibration: NDArray[np.floating]
    sparsity: Sparsity
    scores: NDArray[np.int64] | None = None


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors of a safetensors file, and the strings of its header."""
    if path.suffix in PICKLES:  # to open one is to run what is in it
        raise UsageError(
            f"{path} must be a .safetensors file, not a pickled one: PyTorch converts it, with "
            f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), "
            f"{path.with_suffix('.safetensors').name!r})")
    with refusing(str(path)):
        content = path.read_bytes()
    try:
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
        tensors = {}
        for name, entry in deserialize(content):
            kind, data = entry["dtype"], bytes(entry["data"])
            if 0 in entry["shape"]:
                raise UsageError(f"{path}: tensor {name} must have no size of 0, not shape "
                                 f"{tuple(entry['shape'])}")
            if kind == "BF16":  # the upper half of a float32
                flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
            elif kind in FLOATS:
                flat = np.frombuffer(data, FLOATS[kind])
            else:
                raise UsageError(f"{path}: tensor {name} must be floating point, not {kind}")
            tensors[name] = flat.reshape(entry["shape"])
    except SafetensorError as error:
        raise UsageError(f"{path} must be a safetensors file, but: {error}") from error
    return tensors, header


def load_weights(path: Path, heads: int | None, activation: str | None) -> FloatVit:
    """Build the network of a weight file, whose names are timm's or Hugging Face's.

    What the caller leaves open is taken from the file's header (``heads``, ``activation``), else
    heads are 64 wide and the activation is GELU.
    """
    tensors, header = read_tensors(path)
    with refusing(str(path)):
        tensors = timm_names(tensors)
    if heads is None and header.get("heads", "").isdecimal() and len(header["heads"]) < 10:
        heads = int(header["heads"])
    if heads is None:
        shape = tensors.get("cls_token", np.zeros(HEAD_WIDTH)).shape
        width = shape[-1] if shape else 0
        heads, rest = divmod(width, HEAD_WIDTH)
        if rest or not heads:
            raise UsageError(f"--heads must be given for {path}: its width {width} is not a "
                             f"multiple of the usual {HEAD_WIDTH} a head")
    if activation is None:
        activation = header.get("activation", "gelu")
    with refusing(str(path)):
        return FloatVit(tensors, heads=heads, activation=activation)


def float_network(options: Any) -> tuple[str, FloatVit]:
    """Return the name and the network that the command line asks for."""
    if (options.model is None) == (options.weights is None):
        raise UsageError("either a MODEL or --weights must be given, not " +
                         ("both" if options.model else "neither"))
    if options.model is None:
        return options.weights.name, load_weights(options.weights, options.heads,
                                                  options.activation)
    for name in ("heads", "activation"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} must go with --weights: a MODEL knows its own")
    with refusing():
        return options.model, model(options.model).float_vit()


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file."""
    with refusing(str(path)):
        try:
            array = np.load(path, allow_pickle=False)
        except (EOFError, ValueError, MemoryError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path} must be a .npy file of plain numbers, but: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path} must be a .npy file of one array, not of several")
    return array


def read_images(path: Path, network: FloatVit) -> NDArray[np.floating]:
    """Return float images of the shape that the network expects."""
    images = read_array(path)
    side = network.image
    if images.ndim != 4 or images.shape[1:] != (network.channels, side, side):
        raise UsageError(f"images in {path} must have shape "
                         f"(N, {network.channels}, {side}, {side}), not {images.shape}")
    if images.dtype.kind != "f":
        raise UsageError(f"images in {path} must be floating point, not {images.dtype}")
    if not len(images):
        raise UsageError(f"images in {path} must be at least 1, not 0")
    if not np.isfinite(images).all():
        raise UsageError(f"images in {path} must be finite, not NaN or infinite")
    return images


def read_labels(path: Path, images: int) -> NDArray[np.int64]:
    """Return one class for each image."""
    labels = read_array(path)
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        raise UsageError(f"labels in {path} must be {images} integers, not {labels.dtype} of shape "
                         f"{labels.shape}")
    return labels.astype(np.int64)


def read_scores(path: Path, images: int, choices: int, tokens: int) -> NDArray[np.int64]:
    """Return the importance of the tokens of the first images, (images, choices, tokens).

    What counts is their order: the least number of the file becomes 0, the greatest the greatest
    that a core compares, the others are between them in proportion.
    """
    scores = read_array(path)
    if scores.ndim != 3 or scores.shape[1:] != (choices, tokens) or len(scores) < images:
        raise UsageError(f"scores in {path} must have shape (N, {choices}, {tokens}), N at least "
                         f"{images}, not {scores.shape}")
    if scores.dtype.kind not in "iuf" or not np.isfinite(scores).all():
        raise UsageError(f"scores in {path} must be finite numbers, not NaN, infinite or "
                         f"{scores.dtype}")
    scores = scores.astype(np.float64)
    low, high = scores.min(), scores.max()
    span = high - low
    if not np.isfinite(span):
        raise UsageError(f"scores in {path} must not span more than the greatest number, but go "
                         f"from {low:g} to {high:g}")
    top = (1 << SpattenSpec.SELECT_BITS) - 3
    scaled = (scores[:images] - low) / span * top if span else np.zeros_like(scores[:images])
    return np.rint(scaled).astype(np.int64)


def wanted(options: Any, spec: Any, network: FloatVit) -> Sparsity:
    """Return what the command line wants to leave out of a network on a core."""
    default = {} if options.model is None else model(options.model).prune
    found = sparsity(options.prune, options.rule, options.skip, options.fuse, default=default,
                     spec=spec, relu=network.activation == "relu")
    if options.source == "external":
        if found.rule != Rule.TOPK:
            raise UsageError("--rule must be topk with --source external, not "
                             f"{options.rule!r}")
        if options.fuse:
            raise UsageError("--fuse must be left out with --source external, whose numbers are no "
                             "weights")
        if options.accumulate is not None:
            raise UsageError("--accumulate must be left out with --source external, whose numbers "
                             "take the place of those before")
        if not found.keep:
            raise UsageError("--source external must be left out where no token leaves: --prune "
                             "names none")
    return replace(found, source=options.source, accumulate=options.accumulate or spec.accumulate,
                   choices=choices(options.values, options.confident, options.heads_left))


def task(options: Any, spec: Any) -> Task:
    """Return what the command line asks for, cut to the images asked for."""
    name, network = float_network(options)
    shipped = None if options.model is None else model(options.model)
    if options.inputs is not None:
        images = read_images(options.inputs, network)
        labels = None if options.labels is None else read_labels(options.labels, len(images))
        count = len(images)
    elif options.labels is not None:
        raise UsageError("--labels must go with --inputs: a MODEL's images have theirs, or none")
    elif shipped is None:
        raise UsageError("--inputs must go with --weights: the images to run on")
    else:
        images, labels, count = shipped.images(), shipped.labels(), 16
    if options.calibration is not None:
        calibration = read_images(options.calibration, network)
    else:
        calibration = images if shipped is None else shipped.images("calibration")
    count = count if options.images is None else options.images
    if count > len(images):
        raise UsageError(f"--images must be at most {len(images)}, all there are, not {count}")
    sparsity = wanted(options, spec, network)
    if (sparsity.source == "external") != (options.scores is not None):
        raise UsageError("--scores must be given with --source external, and with no other")
    scores = options.scores and read_scores(options.scores, count, len(sparsity.keep),
                                            network.tokens)
    return Task(name=name, network=network, images=images[:count],
                labels=None if labels is None else labels[:count], calibration=calibration,
                sparsity=sparsity, scores=scores)
