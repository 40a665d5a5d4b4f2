"""A trained decoder as other programs read it: stock classes of Hugging Face, GGUF for llama.cpp."""
