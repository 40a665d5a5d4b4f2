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
    "batchsizeperrank devicetrainbatchsize localbatch perdevicebs"
)
# Names of a number of devices that is that of one machine, where a table counts machines too.
PER_NODE = "gpuspernode devicespernode nprocpernode taskspernode ntaskspernode processespernode devices"
# Names of the devices that hold one copy of a model together, so that they share its batch.
ONE_REPLICA = (
    "tp tpsize tpdegree tensorparallel tensorparallelsize tensorparalleldegree tensormodelparallelsize pp ppsize "
    "ppdegree pipelineparallelsize pipelineparalleldegree pipelinemodelparallelsize cp cpsize contextparallelsize "
    "modelparallelsize mpsize"
)
# Names of parameters that leave open which are counted.
BARE_COUNTS = (
    "numparams nparams params parameters parameter paramcount modelsize modelparams numparameters modelnumparameters "
    "nparameters numberofparameters weightparams parametercount parameterscount modelparameters sizeparams "
    "trainableparams trainableparameters numtrainableparams n size"
)
# What ``num_params`` may count, with the names of each.
COUNTED = {
    "non_embedding": "numparamsnonembedding nonembeddingparams nonembeddingparameters numnonembeddingparams "
    "nonembeddingparamsize nonembeddingparamcount paramsnonembedding nnonembedding nnoembed nnonembed nonembed "
    "noembedparams paramsnoembed nnoemb nnonemb noembparams paramsnoemb nonembparams paramstransformer",
    "matmul": "numparamsmatmul matmulparams paramsmatmul nmatmul numscalingparams scalingparams",
    "total": "numparamstotal totalparams totalparameters numtotalparams paramstotal ntotal totalnumparams nparamstotal",
    "active": "activeparams activeparameters numactiveparams nactiveparams nactive paramsactive numparamsactive "
    "activatedparams activatedparameters numactivatedparams activenonembeddingparams nparamsactive paramsactivated "
    "numparamsactivated nactivated nact activeparamcount activesize activemodelsize active activated",
}
# The letters that every paper gives these fields; any other letter may be anything.
FIELD_LETTERS = frozenset("ndcl")
# Field → a letter that some give it: where it could be meant, the table's notes say so, and it is not taken.
UNCLEAR_LETTERS = {"active_params": "a"}
# Names of steps that may be those of the whole run where a row is a point along it.
TOTAL_STEPS = (
    "totalsteps totaltrainsteps maxsteps maxiters maxiterations numtrainsteps numtrainingsteps numsteps nsteps "
    "trainsteps trainingsteps steps"
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
            "tokencount sizetokens ntraintokens numtraintokens ntrainingtokens numtrainingtokens tokenbudget maxtokens "
            "datatokens data d t",
        ),
        (
            "flops",
            "flops flop trainingflop trainingflops trainflops totalflops totalflop totalflos compute trainingcompute "
            "flopsbudget flopbudget computebudget c prefixedflops",
        ),
        (
            "loss",
            "heldoutloss valloss validationloss evalloss testloss devloss finalvalloss bestvalloss finalloss "
            "validationmetricsloss lmloss loss l valnll testnll evalnll nll valcrossentropy testcrossentropy "
            "evalcrossentropy crossentropy valce testce evalce ce valbpb valbitsperbyte evalbpb testbpb valbpc "
            f"finalbpb finalbpc valbitsperchar {_BITS}",
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
            "maxsequencelength maxseqlength trainseqlen trainseqlength modelmaxlength maxlength contextwindow "
            "contextsize context",
        ),
        (
            "steps",
            "currentsteps currentstep stepsdone globalstep trainglobalstep trainerglobalstep step iteration iter "
            "steps numsteps nsteps trainsteps trainingsteps numtrainsteps numtrainingsteps totalsteps "
            "totaltrainsteps maxsteps iterations iters numiterations numiters niters maxiters maxiterations",
        ),
        ("lr", "lr peaklr maxlr learningrate peaklearningrate maxlearningrate baselr"),
        ("unique_tokens", "uniquetokens numuniquetokens nuniquetokens uniquetraintokens"),
        ("warmup", "warmup warmupsteps numwarmupsteps warmupiters"),
        ("weight_decay", "weightdecay wd"),
        ("seed", "seed randomseed"),
        ("group", "group"),
        ("trunk", "trunk trunkid"),
        ("trunk_noise", "trunknoise"),
        ("run_noise", "runnoise"),
        ("active_params", COUNTED["active"]),
        (
            "accumulation",
            "gradientaccumulationsteps gradaccumsteps gradaccum gradientaccumulation gradacc gradaccsteps accumsteps "
            "accsteps accumulationsteps accumulategradbatches numaccumulationsteps accumulation accum numaccum "
            "nummicrobatches nmicrobatches microbatches microbatchesperstep gas",
        ),
        (
            "processes",
            "worldsize numprocesses nprocesses numgpus ngpus ngpu gpus numdevices ndevices devices numworkers "
            "dpsize dataparallelsize ddpworldsize processes dpworldsize dpdegree dataparalleldegree numranks nranks "
            f"ranks numaccelerators ntpus numtpus {PER_NODE}",
        ),
        ("nodes", "numnodes nnodes nodes"),
        ("tokens_per_param", "tokensperparam tokensperparameter tokensperparams tokensparam tokenparamratio tpp dn"),
        ("total_steps", ""),
        ("label", "label name run runid runname mlflowrunname displayname id"),
        ("status", "status state"),
    )
}
# Where trackers keep things: ``params.lr``, ``config/lr``, ``user_attrs_val_loss``, ``train.lr``, ``summary.val/loss``.
_KEEPER = re.compile(
    r"^(params|metrics|tags(\.mlflow)?|config|summary|hparams|hyperparameters|user_attrs|args|arch|model|train|training"
    r"|trainer|optim|optimizer|data|run|final_metrics|final|results?|stats|scores|settings|cfg|info|attrs|attributes"
    r"|model_config|train_config|training_config|training_args|training_arguments)[._/]+(?=.)",
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
# What only says again what a name counts.
_REPEATED = re.compile(
    r"^(.+?)\s*(?:[(\[]\s*(?:[A-Za-z]|#|params?|parameters|tokens?|nats?|nats\s*(?:/|per)\s*token|count|number|loss)\s*[)\]]"
    r"|,\s*[A-Za-z])$"
)
# A unit before what it counts: Mparams, M_params, million params, billion_tokens, GFLOPs.
_BEFORE = re.compile(
    r"^(?:#\s*)?(?:([KMBGT])[\s_.]?(?=[Pp]aram|[Tt]oken)|(thousands?|millions?|billions?|trillions?)[\s_.-]+(?:of\s)?)(.+)$",
    re.IGNORECASE,
)
_FLOPS_BEFORE = re.compile(r"^([GTPEZ]FLOPs?)$", re.IGNORECASE)


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
    """The unit that a name of a count states: ``params (M)``, ``tokens_B``, ``N in millions``, ``Mparams``."""
    name = name.strip()
    if (parts := _BEFORE.match(name)) is not None:
        return Named(parts[3], _UNITS[(parts[1] or parts[2]).lower()])
    if _FLOPS_BEFORE.match(name):
        return Named("prefixed flops", _FLOPS[normalise(name)])
    for pattern in (_BRACKETED, _AFTER, _CAPITAL):
        if (parts := pattern.match(name)) is None:
            continue
        base, unit = parts.groups()
        if "batch" in base.lower() and "token" in unit.lower() and "token" not in base.lower():
            base += " tokens"  # batch (M tokens)
        letters = len(normalise(base)) == 1 and len(unit) == 1 and unit.islower()  # d_m is a width, not D in millions
        if normalise(base) and not letters and (factor := _factor(unit)) is not None:
            return Named(base, factor)
    return Named(name, 1.0)


def plain_forms(name: str) -> list[str]:
    """Other ways to read a name: without the letter or the word that only repeats it (``parameters (N)``, ``L (nats)``,
    ``Tokens, D``), either side of ``N=params``, and a count of parameters by the one word that says which."""
    forms = []
    if (parts := _REPEATED.match(name.strip())) is not None:
        forms.append(parts[1])
    forms += name.split("=") if name.count("=") == 1 else []
    text = name.lower()
    if re.search("param|size|weight", text) and "ratio" not in text:
        if re.search(r"activ(e|ated)(?![a-z])", text):
            forms.append("active params")
        elif re.search(r"(non|no|w/o|without|excl\w*\.?)[\s_-]*(the\s)?emb", text):
            forms.append("non-embedding params")
    return forms


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
