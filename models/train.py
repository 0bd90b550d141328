# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""Train the shipped models, or write the images they ship with.

``python -m models.train data`` writes ``digits.npz``; ``python -m models.train digits`` and
``... digits-197`` train a model from nothing and write its weights; ``... digits-197-relu`` goes
on from the shipped ``digits-197``. Needs torch, scikit-learn and safetensors; using the models
needs none of the first two. The held-out images are looked at once, when training is over;
``--validate`` sets every fifth training image aside to judge a recipe by.
"""
import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch.nn import functional as F

from models import data
from models.vit_torch import VisionTransformer

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Size of a model and how it is trained; the learning rate warms up, then falls as a cosine."""

    patch: int
    dim: int
    depth: int
    heads: int
    hidden: int
    epochs: int
    drop_path: float
    keep: float = 1.0           # least part of the patches shown, in the first 3/4 of the epochs
    batch: int = 64
    rate: float = 1.5e-3
    decay: float = 0.05         # of matrices; vectors and embeddings do not decay
    smoothing: float = 0.1
    ema: float = 0.998          # per step; these averaged weights are the result
    warmup: float = 0.05        # part of all steps
    start: str = ""             # model whose shipped weights are the first ones
    activation: str = "gelu"
    prune: str = "{}"           # JSON: block -> part of the patches then present that goes on
    dense: float = 0.0          # part of the steps without pruning
    penalty: float = 0.0        # times ``sparsity``; grows linearly in the first half of the steps


RECIPES = {
    "digits": Recipe(patch=2, dim=64, depth=4, heads=4, hidden=256, epochs=300, drop_path=0.1),
    "digits-197": Recipe(patch=4, dim=128, depth=6, heads=4, hidden=256, epochs=60,
                         drop_path=0.1, keep=0.4, rate=1e-3),
    "digits-197-relu": Recipe(patch=4, dim=128, depth=6, heads=4, hidden=256, epochs=30,
                              drop_path=0.0, rate=5e-4, ema=0.99, start="digits-197",
                              activation="relu", prune='{"0": 0.5, "2": 0.5}', dense=0.2,
                              penalty=4.0),
}


class Augment:
    """Deform digits of 8 x 8 pixels as if the original 32 x 32 drawing had been deformed.

    The pixels become a smooth 56 x 56 canvas whose 7 x 7 block means are those pixels, exactly;
    the canvas is rotated, scaled, sheared, shifted and bent elastically, then averaged back to
    8 x 8. Gain and noise follow. Images go in and out as float (N, 8, 8), 0 to 16.
    """

    SIDE, ZOOM = 8, 7

    def __init__(self):
        smooth = data.bicubic(self.SIDE, self.SIDE * self.ZOOM)
        mean = np.kron(np.eye(self.SIDE), np.full(self.ZOOM, 1 / self.ZOOM))
        self.up = torch.from_numpy(smooth @ np.linalg.inv(mean @ smooth)).float()

    def __call__(self, images):
        n, side = len(images), self.SIDE

        def spread(limit, *shape):
            return (torch.rand(n, *shape) * 2 - 1) * limit

        angle, scale, shear = spread(0.22), 1 + spread(0.15, 2), spread(0.2)
        cos, sin = angle.cos(), angle.sin()
        matrix = torch.stack([torch.stack([cos, -sin + shear], 1) * scale[:, :1],
                              torch.stack([sin, cos], 1) * scale[:, 1:]], 1)
        affine = torch.cat([matrix, spread(1.4 / side, 2, 1)], 2)
        canvas = (self.up @ images @ self.up.T)[:, None]
        bend = F.interpolate(torch.randn(n, 2, 4, 4) * 0.5 / side, canvas.shape[-1],
                             mode="bicubic")
        grid = F.affine_grid(affine, list(canvas.shape), align_corners=False)
        canvas = F.grid_sample(canvas, grid + bend.permute(0, 2, 3, 1), align_corners=False)
        gain = 1 + spread(0.2, 1, 1)
        images = F.avg_pool2d(canvas, self.ZOOM)[:, 0] * gain + 0.6 * torch.randn(n, side, side)
        return images.clamp(0, 16)


def activity(hidden, tokens=8, channels=8):
    """Return the L2 norm of each block of ``tokens`` x ``channels`` of (N, tokens, hidden).

    The blocks are those that the second linear layer skips when they are all 0; the last tile of
    tokens may be short. The result has the shape (N, tiles, groups).
    """
    count, present, width = hidden.shape
    hidden = F.pad(hidden, (0, 0, 0, -present % tokens))
    blocks = hidden.view(count, -1, tokens, width // channels, channels)
    return (blocks.square().sum((2, 4)) + 1e-12).sqrt()


def sparsity(norms):
    """Return about the part of blocks in use: (sum of norms)^2 / (blocks * sum of squares).

    It does not change with the scale, so smaller values alone do not lower it: descending pushes
    the small blocks to 0 and the large ones up. Source: Yang et al., DeepHoyer, ICLR 2020
    (arXiv:1908.09979), the group Hoyer-square, here of activations and divided by their number.
    """
    return norms.sum().square() / (norms.square().sum() * norms.numel())


def load():
    """Return all images (1797, 8, 8) uint8, labels, and the indices of ``data.split``."""
    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target, data.split(digits.target)


def write_data():
    images, target, (held_out, calibration, _) = load()
    np.savez_compressed(HERE / "digits.npz", **{
        f"{name}_{what}": source[index].astype(np.uint8)
        for name, index in (("held_out", held_out), ("calibration", calibration))
        for what, source in (("images", images), ("labels", target))})


def accuracy(model, inputs, target, prune=None):
    """Return the part of ``inputs`` that ``model`` classifies as ``target``."""
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part, prune=prune) for part in inputs.split(60)])
    return (logits.argmax(1) == target).double().mean().item()


def build(recipe, size):
    return VisionTransformer(image=size, drop_path=recipe.drop_path, **{
        name: getattr(recipe, name)
        for name in ("patch", "dim", "depth", "heads", "hidden", "activation")})


def save(model, path, name, recipe):
    """Write float16 weights with what the tensors do not say in the header."""
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, path,
              {"model": name, "heads": str(recipe.heads), "activation": recipe.activation,
               "image_size": str(data.SIZES[name]), "licence": "Apache-2.0"}
              | ({"prune": recipe.prune} if recipe.prune != "{}" else {}))


def train(name, recipe, *, seed=0, validate=False, state=None, out=None):
    """Train one model and return its accuracy on the held-out (or validation) images.

    A list of one: with all tokens; where the recipe prunes, also the accuracy of exactly the part
    of the patches that it names.
    """
    torch.manual_seed(seed)
    size = data.SIZES[name]
    images, target, (held_out, _, training) = load()
    if validate:
        training, held_out = training[np.arange(len(training)) % 5 != 0], training[::5]
    source = torch.from_numpy(images[training]).float()
    label = torch.from_numpy(target[training])
    judge = (torch.from_numpy(data.prepare(images[held_out], size)),
             torch.from_numpy(target[held_out]))
    augment = Augment()

    model = build(recipe, size)
    if recipe.start:
        model.load_state_dict(load_file(HERE / f"{recipe.start}.safetensors"))
    prune = {int(block): part for block, part in json.loads(recipe.prune).items()}
    average = copy.deepcopy(model)
    matrices = [p for key, p in model.named_parameters() if p.ndim > 1 and "embed" not in key
                and "token" not in key]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": recipe.decay},
                                   {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.99))
    steps_per_epoch = len(source) // recipe.batch
    steps = recipe.epochs * steps_per_epoch
    warmup = recipe.warmup * steps
    step, first = 0, 0
    if state and state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["random"])
        step, first = saved["step"], saved["epoch"]

    start = time.time()
    for epoch in range(first, recipe.epochs):
        model.train()
        total = 0.0
        for index in torch.randperm(len(source))[:steps_per_epoch * recipe.batch].split(
                recipe.batch):
            step += 1
            rate = recipe.rate * min(step / warmup, 0.5 + 0.5 * math.cos(
                math.pi * max(step - warmup, 0) / (steps - warmup)))
            for group in optimiser.param_groups:
                group["lr"] = rate
            inputs = torch.from_numpy(data.prepare(augment(source[index]).numpy(), size))
            keep = 1.0
            if epoch < 0.75 * recipe.epochs:
                keep = recipe.keep + (1 - recipe.keep) * torch.rand(()).item() ** 2
            kept = {}
            if prune and torch.rand(()) >= recipe.dense:
                kept = {block: part * (0.8 + 0.4 * torch.rand(()).item())
                        for block, part in prune.items()}
            hidden = []
            loss = F.cross_entropy(model(inputs, keep, kept, hidden.append), label[index],
                                   label_smoothing=recipe.smoothing)
            if recipe.penalty:
                norms = [activity(block) for block in hidden]
                weight = recipe.penalty * min(2 * step / steps, 1) / sum(map(torch.numel, norms))
                for norm in norms:
                    loss = loss + weight * norm.numel() * sparsity(norm)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            total += loss.item()
            ema = min(recipe.ema, step / (step + 10))
            with torch.no_grad():
                for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(value, 1 - ema)
        note = ""
        if validate and (epoch % 20 == 19 or epoch + 1 == recipe.epochs):
            note = f"  validation {accuracy(average, *judge, prune):.4f}"
        print(f"{name} epoch {epoch + 1}/{recipe.epochs}  loss {total / steps_per_epoch:.4f}"
              f"  {time.time() - start:.0f} s{note}", flush=True)
        if state:
            torch.save({"model": model.state_dict(), "average": average.state_dict(),
                        "optimiser": optimiser.state_dict(), "random": torch.get_rng_state(),
                        "step": step, "epoch": epoch + 1}, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)

    out = out or HERE / f"{name}.safetensors"
    save(average, out, name, recipe)
    average.load_state_dict(load_file(out))                    # judged as rounded
    return [accuracy(average, *judge, part) for part in ([{}, prune] if prune else [{}])]


def main():
    parser = argparse.ArgumentParser(description="Train the shipped models, or write their images.")
    parser.add_argument("what", choices=["data", *RECIPES])
    for field, value in asdict(RECIPES["digits"]).items():
        parser.add_argument(f"--{field}", type=type(value), help="override the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--validate", action="store_true",
                        help="train on 4/5 of the training images, judge on the rest")
    parser.add_argument("--state", type=Path, help="checkpoint to write each epoch and resume from")
    parser.add_argument("--out", type=Path, help="weights (default: beside this script)")
    args = parser.parse_args()
    if args.what == "data":
        return write_data()
    torch.set_num_threads(args.threads)
    changes = {key: value for key in asdict(RECIPES["digits"])
               if (value := getattr(args, key)) is not None}
    recipe = Recipe(**asdict(RECIPES[args.what]) | changes)
    result = train(args.what, recipe, seed=args.seed, validate=args.validate, state=args.state,
                   out=args.out)
    print(f"{'validation' if args.validate else 'held-out'} accuracy of the float16 weights: "
          + ", pruned ".join(f"{value:.4f}" for value in result))


if __name__ == "__main__":
    main()
