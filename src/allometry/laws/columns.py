"""Which column of somebody's table holds what: the usual names, looked up without regard to case or punctuation."""

from __future__ import annotations

import re

from ..errors import UserError

# Numeric fields of an observation, in the order of its attributes.
FIELDS = ("num_params", "tokens", "loss", "flops", "loss_se")
# Numeric fields that a table may have besides.
EXTRA = ("batch_tokens", "lr", "steps", "unique_tokens", "seed", "warmup", "weight_decay")

# Normalised names, the most telling first: a table with both a non-embedding and a total count gives the former.
KNOWN = {
    field: names.split()
    for field, names in (
        (
            "num_params",
            "numparams nonembeddingparams numparamsnonembedding nonembeddingparamsize nnonembedding nnoembed nonembed "
            "nparams params parameters paramcount modelsize modelparams numparameters n size",
        ),
        ("tokens", "tokens numtokens ntokens trainingtokens traintokens trainedtokens totaltokens datasize d t"),
        ("flops", "flops flop trainingflop trainingflops trainflops totalflops compute trainingcompute c"),
        ("loss", "heldoutloss valloss validationloss evalloss testloss finalvalloss finalloss lmloss loss l"),
        ("loss_se", "lossse lossstderr lossstandarderror stderr se"),
        ("batch_tokens", "batchtokens batchsizetokens bstokens"),
        ("lr", "lr learningrate peaklr maxlr"),
        ("steps", "steps numsteps trainsteps"),
        ("unique_tokens", "uniquetokens numuniquetokens"),
        ("seed", "seed"),
        ("warmup", "warmup warmupsteps"),
        ("weight_decay", "weightdecay wd"),
        ("label", "label name run runid runname id"),
        ("status", "status state"),
    )
}


def normalise(name: object) -> str:
    """``Training FLOP`` and ``training_flop`` are one name."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def match_columns(header: list[str], chosen: dict[str, str], source: str) -> tuple[dict[str, str], list[str]]:
    """Choose a column for every field that the header offers.

    Args:
        header: column names of the table.
        chosen: field → column, as the user said; it goes before the usual names.
        source: the file's name, for the errors.

    Returns:
        field → column, and notes that say which columns were taken and which others could have been.

    Raises:
        UserError: a chosen column or field does not exist; no size, no loss, or neither tokens nor flops; several
            columns could be the loss.
    """
    shown = ", ".join(str(name) for name in header if name is not None)
    for field, column in chosen.items():
        if field not in KNOWN:
            raise UserError(f"columns: no field {field!r}; known are {', '.join(KNOWN)}")
        if column not in header:
            raise UserError(f"{source}: no column {column!r} for {field}; found: {shown}")
    by_name: dict[str, str] = {}
    for column in header:
        by_name.setdefault(normalise(column), column)
    taken, notes = {}, []
    for field, names in KNOWN.items():
        matches = [by_name[name] for name in names if name in by_name]
        if field in chosen:
            taken[field] = chosen[field]
        elif matches:
            taken[field] = matches[0]
            if len(matches) > 1 and field in FIELDS:
                notes.append(f"{field} is column {matches[0]!r}; {', '.join(map(repr, matches[1:]))} not used")
    if "loss" not in taken:
        taken.update(_guess_loss(header, source))
    missing = [field for field in ("num_params", "loss") if field not in taken]
    if "tokens" not in taken and "flops" not in taken:
        missing.append("tokens (or flops)")
    if missing:
        raise UserError(
            f"{source}: no column for {', '.join(missing)}; found: {shown}; "
            "wanted: num_params (N, params), tokens (D) or flops (C), loss"
        )
    used = ", ".join(f"{field} = {taken[field]!r}" for field in FIELDS if field in taken)
    return taken, [f"columns taken: {used}", *notes]


def _guess_loss(header: list[str], source: str) -> dict[str, str]:
    """The one column that has loss in its name, if there is just one."""
    candidates = [column for column in header if "loss" in normalise(column)]
    if len(candidates) > 1:
        raise UserError(
            f"{source}: several columns could be the loss ({', '.join(candidates)}); "
            f"say which, e.g. columns={{'loss': {candidates[0]!r}}}"
        )
    return {"loss": candidates[0]} if candidates else {}
