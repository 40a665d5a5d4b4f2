"""From text to packed tokens: sources, documents, tokenizer, split, packing, shards, corpus. Imports no torch."""
