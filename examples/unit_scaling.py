"""A unit-scaled model, trained by AdamW with one base learning rate, and an audit of every tensor's scale."""

import torch

from allometry import nn

torch.manual_seed(0)
model = nn.Decoder(vocab_size=64, layers=2, width=64, heads=4)
optimizer = nn.AdamW(model, lr=0.5)  # the base rate; each weight's own follows from its role
loss_of = nn.CrossEntropyLoss()


def batch(rows: int = 16, length: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences that count upwards from a random start, and the token that follows each position."""
    text = (torch.randint(64, (rows, 1)) + torch.arange(length + 1)) % 64
    return text[:, :-1], text[:, 1:]


losses = []
for _ in range(60):
    tokens, targets = batch()
    loss = loss_of(model(tokens).flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} at the start, {losses[-1]:.2f} after {len(losses)} steps")

# The scales at initialisation, where the constants hold exactly.
fresh = nn.Decoder(vocab_size=64, layers=2, width=64, heads=4)
audit = nn.audit(fresh, batch())
print(audit)
