"""A law of one's own: its formula and its constants are enough; derivatives and starting points follow from them."""

from allometry import laws


class SquareRoot(laws.Formula):
    name, formula, source = "square_root", "L = E + A/(N^α·√D)", "mine"
    constants = {"E": laws.FLOOR, "A": laws.COEFFICIENT, "alpha": (0.01, 1)}

    def evaluate(self, c, n, d):
        return c["E"] + c["A"] / (n ** c["alpha"] * d**0.5)


rows = [
    {"num_params": n, "tokens": d, "loss": 2 + 3e5 / (n**0.2 * d**0.5)}
    for n in (1e6, 4e6, 16e6, 64e6)
    for d in (1e8, 4e8, 16e8)
]
fit = laws.fit(SquareRoot(), laws.Observations.from_records(rows, counted="non_embedding"))
print(fit.summary())
