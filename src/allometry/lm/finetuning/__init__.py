"""Fine-tuning a pretrained language model of transformers: its examples, and a ladder of sample counts."""
