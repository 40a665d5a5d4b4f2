"""The laws: sums of powers, joined powers, farseer, formulas of one's own; a catalog by name."""
