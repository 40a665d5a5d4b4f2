"""From a table of finished runs to a forecast of larger ones, and to a plan for a budget. No torch."""

import csv
import random

from allometry import laws, planning

# Stands for the export of your tracker: 30 runs whose losses follow a known law, with 0.1 % of noise.
noise = random.Random(0)
with open("runs.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["params", "tokens", "val_loss"])
    for params in (2e6, 4e6, 8e6, 16e6, 32e6, 64e6):
        for tokens in (100e6, 200e6, 400e6, 800e6, 1600e6):
            loss = 1.8 + 480 / params**0.35 + 1100 / tokens**0.33
            table.writerow([int(params), int(tokens), loss * noise.gauss(1, 0.001)])

runs = laws.Observations.read("runs.csv", counted="non_embedding")  # which parameters the column counts
print(*runs.notes, *runs.findings, sep="\n")  # which columns were taken, and what is wrong with the table

forecast = laws.forecast(runs)  # several laws, weighted by how well each predicts the table's largest runs
prediction = forecast.predict(num_params=200e6, tokens=4e9)
print(prediction)  # the law that made the table gives 3.14
print(forecast.evidence(200e6, 4e9))  # how far beyond the table that is

plan = planning.plan(forecast, planning.Budget(flops=5e18))
print(plan.summary())
