"""A GPT in one file, as many people have one: characters in, next characters out. It knows nothing of allometry.

python nano_gpt.py --n_embd 64 --max_iters 500 --learning_rate 1e-3 --out_dir out
"""

import argparse
import json
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def read_text(path: str | None) -> torch.Tensor:
    """The bytes of a text, or of the modules of Python's own library."""
    modules = sorted(Path(json.__file__).parents[1].glob("*.py"))
    content = Path(path).read_bytes() if path else b"\n".join(module.read_bytes() for module in modules)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).long()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_embd", type=int, default=64)
    parser.add_argument("--n_layer", type=int, default=2)
    parser.add_argument("--n_head", type=int, default=4)
    parser.add_argument("--block_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_iters", type=int, default=500)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data")
    parser.add_argument("--out_dir", type=Path, default=Path("out"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    data = read_text(args.data)
    split = int(0.9 * len(data))
    train, held_out = data[:split], data[split:]
    model = GPT(256, args.block_size, args.n_embd, args.n_layer, args.n_head)
    size = sum(p.numel() for block in model.blocks for p in block.parameters())
    print(f"number of parameters: {size}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)

    def batch(source: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(source) - args.block_size - 1, (rows,))
        windows = torch.stack([source[i : i + args.block_size + 1] for i in starts])
        return windows[:, :-1], windows[:, 1:]

    warmup = max(1, args.max_iters // 20)
    for step in range(args.max_iters):
        left = (step - warmup) / max(1, args.max_iters - warmup)
        factor = (step + 1) / warmup if step < warmup else 0.1 + 0.45 * (1 + math.cos(math.pi * left))
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * factor
        x, y = batch(train, args.batch_size)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"iter {step}: loss {loss.item():.4f}", flush=True)
    windows = held_out[: len(held_out) // (args.block_size + 1) * (args.block_size + 1)].view(-1, args.block_size + 1)
    windows = windows[:: max(1, len(windows) // 512)]
    with torch.no_grad():
        losses = [F.cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten()).item() for w in windows.split(32)]
    args.out_dir.mkdir(parents=True, exist_ok=True)
    result = {"val_loss": sum(losses) / len(losses), "parameters": size, "iters": args.max_iters}
    (args.out_dir / "result.json").write_text(json.dumps(result))
    print(f"val loss {result['val_loss']:.4f}")


if __name__ == "__main__":
    main()
