# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""The shipped Vision Transformer in PyTorch. Only training needs it, and torch."""
import math

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["VisionTransformer"]


class PatchEmbed(nn.Module):
    """Project square patches: a convolution whose stride is its kernel."""

    def __init__(self, channels, patch, dim):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Attend over all tokens.

    Returns the result and the importance of each patch (N, patches): the class token's attention
    to it, summed over the heads.
    """

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        with torch.no_grad():
            scores = query[:, :, :1] @ key.transpose(-1, -2) / math.sqrt(dim // self.heads)
            importance = scores.softmax(-1).sum((1, 2))[:, 1:]
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim)), importance


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU or a ReLU between them."""

    def __init__(self, dim, hidden, activation):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.activate = {"gelu": F.gelu, "relu": F.relu}[activation]

    def forward(self, x, observe=None):
        hidden = self.activate(self.fc1(x))
        if observe:
            observe(hidden)
        return self.fc2(hidden)


def survivors(x, importance, count):
    """Return the class token and the ``count`` most important patches of ``x``, order kept."""
    order = importance.topk(count, 1).indices.sort(1).values + 1
    order = torch.cat([torch.zeros_like(order[:, :1]), order], 1)
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))


class Block(nn.Module):
    """Pre-norm encoder block; while training, each branch of each image is skipped at random."""

    def __init__(self, dim, heads, hidden, drop_path, activation):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden, activation)
        self.drop_path = drop_path

    def _drop(self, x):
        if not self.training or not self.drop_path:
            return x
        keep = torch.rand(len(x), 1, 1) >= self.drop_path
        return x * keep / (1 - self.drop_path)

    def forward(self, x, keep=1.0, observe=None):
        attended, importance = self.attn(self.norm1(x))
        x = x + self._drop(attended)
        if keep < 1:
            x = survivors(x, importance, round(keep * importance.shape[1]))
        return x + self._drop(self.mlp(self.norm2(x), observe))


def sincos(grid, dim):
    """Return sines and cosines of row and column (grid * grid, dim), where the positions start.

    The wavelengths run from 4 patches to 4 grids, a quarter of ``dim`` for each of the four.
    """
    wave = 2 * math.pi / 4 / torch.logspace(0, math.log10(grid), dim // 4)
    angle = torch.arange(grid)[:, None] * wave
    line = torch.cat([angle.sin(), angle.cos()], 1)
    return 0.5 * torch.cat([line[:, None].expand(-1, grid, -1), line.expand(grid, -1, -1)],
                           2).reshape(grid * grid, dim)


class VisionTransformer(nn.Module):
    """Build a ViT whose parameters carry timm's names, so that a checkpoint loads in either.

    Parameters
    ----------
    image, patch, channels : int
        Side of the square image and of its patches in pixels; channels of the image.
    dim, depth, heads, hidden, classes : int
        Width of a token (a multiple of 4), blocks, heads per block, width inside the MLP, outputs.
    drop_path : float
        Probability of skipping a branch in the last block; it grows linearly from 0 at the first.
    activation : {"gelu", "relu"}
        Between the two layers of the MLP.
    """

    def __init__(self, *, image, patch, dim, depth, heads, hidden, channels=1, classes=10,
                 drop_path=0.0, activation="gelu"):
        super().__init__()
        self.patch_embed = PatchEmbed(channels, patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, hidden, drop_path * index / max(depth - 1, 1), activation)
            for index in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("weight") and parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter.flatten(1))
        with torch.no_grad():
            self.pos_embed[0, 1:] = sincos(image // patch, dim)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images, keep=1.0, prune=None, observe=None):
        """Classify ``images`` (N, C, H, W), each by a random part ``keep`` of its patches.

        After the attention of block b only the part ``prune[b]`` of the patches then present goes
        on, those that the class token attended to most. ``observe(hidden)`` sees what each MLP
        has between its layers (N, tokens, hidden).
        """
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        if keep < 1:
            order = torch.rand(x.shape[:2]).argsort(1)[:, :round(keep * x.shape[1])]
            x = x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for index, block in enumerate(self.blocks):
            x = block(x, (prune or {}).get(index, 1.0), observe)
        return self.head(self.norm(x[:, 0]))
