"""The names that people and tools give to what a law needs, whatever their case, punctuation, prefix and unit."""

from __future__ import annotations

import re
from typing import NamedTuple

# Names of a batch that leave open whether it counts tokens or sequences.
BARE_BATCH = "bsz batch batchsize bs trainbatchsize"
# Names of a batch of the whole step, over all processes and accumulated pieces; and of one device or one piece.
GLOBAL_BATCH = "globalbatch globalbatchsize gbs totalbatchsize totaltrainbatchsize effectivebatchsize effectivebatch"
DEVICE_BATCH = (
    "perdevicetrainbatchsize perdevicebatchsize perdevicebatch devicebatchsize batchsizeperdevice batchsizepergpu "
    "pergpubatchsize pergputrainbatchsize microbatchsize microbatch mbs trainmicrobatchsizepergpu localbatchsize "
    "batchsizeperrank"
)
# Names of parameters that leave open which are counted.
BARE_COUNTS = (
    "numparams nparams params parameters parameter paramcount modelsize modelparams numparameters modelnumparameters "
    "nparameters numberofparameters weightparams n size"
)
# What ``num_params`` may count, with the names of each.
COUNTED = {
    "non_embedding": "numparamsnonembedding nonembeddingparams nonembeddingparameters numnonembeddingparams "
    "nonembeddingparamsize nonembeddingparamcount paramsnonembedding nnonembedding nnoembed nnonembed nonembed "
    "noembedparams paramsnoembed nnoemb nnonemb noembparams paramsnoemb nonembparams paramstransformer",
    "matmul": "numparamsmatmul matmulparams paramsmatmul nmatmul numscalingparams scalingparams",
    "total": "numparamstotal totalparams totalparameters numtotalparams paramstotal ntotal totalnumparams nparamstotal",
    "active": "activeparams activeparameters numactiveparams nactiveparams nactive paramsactive numparamsactive "
    "activatedparams activatedparameters numactivatedparams activenonembeddingparams",
}
# Names of steps that may be those of the whole run where a row is a point along it.
TOTAL_STEPS = (
    "totalsteps totaltrainsteps maxsteps maxiters numtrainsteps numsteps nsteps trainsteps trainingsteps steps"
)
# A loss in bits by its name, so that predictions are in bits too.
_BITS = "bitsperbyte bpb bitsperchar bpc"
# Field → normalised names, the likeliest first.
KNOWN = {
    name: words.split()
    for name, words in (
        ("num_params", BARE_COUNTS),
        (
            "tokens",
            "tokens numtokens ntokens trainingtokens traintokens trainedtokens tokenstrained tokensseen seentokens "
            "ntokensseen numtokensseen tokensprocessed consumedtokens consumedtraintokens numinputtokensseen "
            "currenttokens traintokensseen totaltokens totaltokensseen totaltraintokens totaltrainingtokens datasize "
            "d t",
        ),
        (
            "flops",
            "flops flop trainingflop trainingflops trainflops totalflops totalflop totalflos compute trainingcompute "
            "flopsbudget flopbudget computebudget c",
        ),
        (
            "loss",
            "heldoutloss valloss validationloss evalloss testloss devloss finalvalloss bestvalloss finalloss "
            "validationmetricsloss lmloss loss l valbpb valbitsperbyte evalbpb testbpb valbpc finalbpb finalbpc "
            f"valbitsperchar {_BITS}",
        ),
        ("loss_se", "lossse lossstderr lossstandarderror vallossse vallossstderr stderr se"),
        (
            "batch_tokens",
            "batchtokens batchsizetokens bstokens tokensperbatch tokensperstep batchsizeintokens globalbatchtokens "
            "tokensperiter tokensperiteration totalbatchsizetokens globalbatchsizetokens",
        ),
        (
            "batch_sequences",
            "batchsequences bsseqs batchseqs batchsizesequences sequencesperbatch "
            f"{GLOBAL_BATCH} {BARE_BATCH} {DEVICE_BATCH}",
        ),
        (
            "sequence_length",
            "sequencelength seqlen seqlength contextlength contextlen ctxlen ctx blocksize nctx maxseqlen "
            "maxsequencelength maxseqlength trainseqlen",
        ),
        (
            "steps",
            "currentsteps currentstep stepsdone globalstep trainglobalstep trainerglobalstep step "
            "steps numsteps nsteps trainsteps trainingsteps numtrainsteps totalsteps totaltrainsteps maxsteps "
            "iterations iters numiterations numiters niters maxiters iteration iter",
        ),
        ("lr", "lr peaklr maxlr learningrate peaklearningrate maxlearningrate baselr"),
        ("unique_tokens", "uniquetokens numuniquetokens nuniquetokens uniquetraintokens"),
        ("warmup", "warmup warmupsteps numwarmupsteps warmupiters"),
        ("weight_decay", "weightdecay wd"),
        ("seed", "seed randomseed"),
        ("group", "group"),
        ("trunk", "trunk trunkid"),
        ("trunk_noise", "trunknoise"),
        ("active_params", COUNTED["active"]),
        (
            "accumulation",
            "gradientaccumulationsteps gradaccumsteps gradaccum gradientaccumulation gradacc gradaccsteps accumsteps "
            "accsteps accumulationsteps accumulategradbatches numaccumulationsteps",
        ),
        (
            "processes",
            "worldsize numprocesses nprocesses numgpus ngpus ngpu gpus numdevices ndevices devices numworkers "
            "dpsize dataparallelsize ddpworldsize processes dpworldsize",
        ),
        ("total_steps", ""),
        ("label", "label name run runid runname mlflowrunname displayname id"),
        ("status", "status state"),
    )
}
# Where trackers keep things: ``params.lr``, ``config/lr``, ``user_attrs_val_loss``, ``train.lr``, ``summary.val/loss``.
_KEEPER = re.compile(
    r"^(params|metrics|tags(\.mlflow)?|config|summary|hparams|hyperparameters|user_attrs|args|arch|model|train|training"
    r"|trainer|optim|optimizer|data|run)[._/]+(?=.)",
    re.IGNORECASE,
)
_WORDS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mio": 1e6, "mrd": 1e9}
_LETTERS = {"k": 1e3, "m": 1e6, "mn": 1e6, "b": 1e9, "bn": 1e9, "g": 1e9, "t": 1e12}
_FLOPS = {
    "gflop": 1e9, "tflop": 1e12, "pflop": 1e15, "eflop": 1e18, "zflop": 1e21, "gflops": 1e9, "tflops": 1e12,
    "pflops": 1e15, "eflops": 1e18, "zflops": 1e21, "flop": 1.0, "flops": 1.0,
    "pflopdays": 8.64e19, "pflopsdays": 8.64e19, "pfdays": 8.64e19, "petaflopdays": 8.64e19, "petaflopsdays": 8.64e19,
}  # fmt: skip
_UNITS = _WORDS | {f"{word}s": factor for word, factor in _WORDS.items()} | _LETTERS | _FLOPS
_POWER = re.compile(r"^[x×*]?\s*(?:1e\+?|10\^|10\*\*)(\d{1,2})$")
_BRACKETED = re.compile(r"^(.+?)\s*[(\[{]\s*(?:in\s+)?([^)\]}]+?)\s*[)\]}]$")
_AFTER = re.compile(r"^(.+?)(?:[\s_/.,-]+in[\s_]+|[\s_/.,-]+)([A-Za-z]+|[x×*]?(?:1e\+?|10\^)\d{1,2})$")
_CAPITAL = re.compile(r"^(.*[a-z])([KMBGT])$")


class Named(NamedTuple):
    """A name without its unit, and what one of it is: ``params (M)`` is ``params`` and 1e6."""

    base: str
    factor: float


def normalise(name: object) -> str:
    """``Training FLOP`` and ``training_flop`` are one name."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def without_keeper(name: str) -> str:
    """The name without the place where a tracker keeps it: ``lr`` of ``params.lr``; itself where there is none."""
    before = None
    while before != name:
        before, name = name, _KEEPER.sub("", name, count=1)
    return name


def split_unit(name: str) -> Named:
    """The unit that a name of a count states: ``params (M)``, ``tokens_B``, ``N in millions``, ``compute [1e18]``."""
    for pattern in (_BRACKETED, _AFTER, _CAPITAL):
        if (parts := pattern.match(name.strip())) is None:
            continue
        base, unit = parts.groups()
        letters = len(normalise(base)) == 1 and len(unit) == 1 and unit.islower()  # d_m is a width, not D in millions
        if normalise(base) and not letters and (factor := _factor(unit)) is not None:
            return Named(base, factor)
    return Named(name, 1.0)


def is_known(name: str) -> bool:
    """Whether a name is one of those known, for any field."""
    bare = {normalise(form) for form in (name, without_keeper(name), split_unit(name).base)}
    return bool(bare & _ALL)


def _factor(unit: str) -> float | None:
    """What a unit counts; None if it is no unit."""
    text = re.sub(r"\b(params?|parameters?|tokens?|flops?|of)\b", "", unit.strip().lower()).strip() or unit.lower()
    if (power := _POWER.match(text.replace(" ", ""))) is not None:
        return 10.0 ** int(power.group(1))
    return _UNITS.get(normalise(text))


_ALL = {word for words in (*KNOWN.values(), *(text.split() for text in COUNTED.values())) for word in words}
