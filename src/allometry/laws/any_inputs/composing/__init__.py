"""What a form can be: features of inputs, sums of their products, the grammar, and formulas of one's own."""
