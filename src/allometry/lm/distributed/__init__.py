"""One run trained by several processes (torchrun): DDP, FSDP2, states that any number of processes can read."""
