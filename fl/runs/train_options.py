"""The options of a training run: what each may be, where it stands in a configuration, and what it means.

`fl.train` takes them by their Python names and `demos train` makes its command-line options of them; nothing else says
which options there are. Ranges are those of `fl.options`.

What it leaves to others: making a configuration from them (`fl.runs.asked`). It imports no torch, since `--help` does
not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fl import options


@dataclass(frozen=True)
class TrainOption:
    """`places`: its fields in `fl.runs.config.RunConfig`, as "table.field"; none: it decides whole tables.

    `default`: what --help shows; the defaults themselves stand in `fl.runs.config` and `fl.runs.styles`.
    `only_private`: it means nothing without differential privacy. `only_network`: it means nothing to the noisy-or
    model, so that giving it asks for the network. `only_trees`: it means something to trees alone. `by_name`: on the
    command line it is given as `--option NAME=VALUE`.
    """

    what: options.Option
    help: str
    places: tuple[str, ...] = ()
    default: str = ""
    metavar: str | None = None
    only_private: bool = False
    only_network: bool = False
    only_trees: bool = False
    by_name: bool = False
    is_switch: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_switch", self.what == options.SWITCH)


TRAIN_OPTIONS: dict[str, TrainOption] = {
    # --- data
    "data": TrainOption(
        options.FILE,
        "File of transactions (csv, compressed or not, or parquet), or the embedded data.",
        ("data.source",),
        "simulated",
        "FILE|simulated",
    ),
    "schema": TrainOption(
        options.FILE,
        "What the columns mean. Default: recognised by the header.",
        ("data.schema",),
        metavar="NAME|FILE.toml",
    ),
    "partition": TrainOption(
        options.Text("a column, or FILE.csv:COLUMN"),
        "Column that names the bank of a row.",
        ("data.partition",),
        metavar="COLUMN|FILE.csv:COLUMN",
    ),
    "clients": TrainOption(
        options.RANDOM_BANKS, "Number of banks. Cannot be combined with --partition.", ("data.clients",)
    ),
    "test_windows": TrainOption(
        options.TEST_WINDOWS,
        "Number of consecutive test weeks, whose figures are averaged. Default: the schema's.",
        ("data.test_windows",),
    ),
    "customers": TrainOption(options.CUSTOMERS, "Number of customers in the embedded data.", ("data.customers",)),
    "fraud_share": TrainOption(options.FRAUD_SHARE, "Share of frauds in the embedded data.", ("data.fraud_share",)),
    "terminal_frauds": TrainOption(
        options.TERMINAL_FRAUDS,
        "Share of the embedded data's frauds that happen at compromised terminals; 0: there are no such terminals. "
        "Default: 0.6.",
        ("data.terminal_frauds",),
        by_name=True,
    ),
    "compromise_shortest": TrainOption(
        options.COMPROMISE_DAYS,
        "Fewest days that a terminal of the embedded data is compromised. Default: 14.",
        ("data.compromise_shortest",),
        by_name=True,
    ),
    "compromise_longest": TrainOption(
        options.COMPROMISE_DAYS,
        "Most days that a terminal of the embedded data is compromised. Default: 42.",
        ("data.compromise_longest",),
        by_name=True,
    ),
    "compromise_mean": TrainOption(
        options.MEAN_DAYS,
        "Mean days that a terminal of the embedded data is compromised. Default: halfway between fewest and most.",
        ("data.compromise_mean",),
        by_name=True,
    ),
    "compromise_least": TrainOption(
        options.COMPROMISE_SHARE,
        "Smallest share of frauds at a compromised terminal of the embedded data. Default: 0.6.",
        ("data.compromise_least",),
        by_name=True,
    ),
    "compromise_most": TrainOption(
        options.COMPROMISE_SHARE,
        "Largest share of frauds at a compromised terminal of the embedded data. Default: 1.",
        ("data.compromise_most",),
        by_name=True,
    ),
    "rounds": TrainOption(
        options.ROUNDS,
        "Number of rounds. Default: 10 of the network, or 100 with --noise shared, where a round is one step; 40 steps "
        "of noisy-or.",
        ("rounds",),
    ),
    "model": TrainOption(
        options.Choice(("mlp", "noisy-or", "trees", "auto")),
        "mlp: a network. noisy-or: a dozen weights beside the risk of shared parties. trees: boosted trees; splits are "
        "learned with --no-dp, and drawn under privacy. auto: every one of these that fits, and then the best on "
        "held-out rows, only with --no-dp. Default: noisy-or with privacy, unless an option of the network is given or "
        "--rows-per-bank times epsilon is 64000 or more; mlp with --no-dp.",
        ("model.kind",),
    ),
    "ignore_monotone": TrainOption(
        options.SWITCH,
        "Train another model although the schema names monotone columns, which trees with --no-dp alone keep.",
        ("model.ignore_monotone",),
        by_name=True,
    ),
    # --- privacy
    "epsilon": TrainOption(
        options.EPSILON,
        "Privacy budget of every bank for the life of its data.",
        ("privacy.epsilon",),
        "3.0",
        only_private=True,
    ),
    "delta": TrainOption(
        options.DELTA,
        "Probability that the bound epsilon does not hold.",
        ("privacy.delta",),
        "1e-05",
        only_private=True,
    ),
    "no_dp": TrainOption(options.SWITCH, "Train without differential privacy."),
    "unit": TrainOption(
        options.Choice(("row", "client")),
        "What epsilon protects: a training row and a transaction in counts, or a bank's whole update.",
        ("privacy.unit",),
        "row",
        only_private=True,
        only_network=True,
    ),
    "noise": TrainOption(
        options.Choice(("own", "shared")),
        "own: each bank adds its own noise and trusts nobody. shared: each adds a share of one, much smaller noise. "
        "Default: shared with noisy-or, own with mlp.",
        ("privacy.noise",),
        only_private=True,
    ),
    "update_norm": TrainOption(
        options.UPDATE_NORM,
        "L2 bound of an update, with --unit client.",
        ("privacy.update_norm",),
        "1.0",
        only_private=True,
        by_name=True,
        only_network=True,
    ),
    "no_shared_statistics": TrainOption(options.SWITCH, "Share no counts of terminals, whatever the schema says."),
    "min_banks": TrainOption(
        options.BANKS,
        "Suppress counts to which fewer banks contributed. Default: 3 with --no-dp; 1, and nothing else, with privacy.",
        ("statistics.min_banks",),
    ),
    "colluders": TrainOption(
        options.BANKS,
        "Number of banks, including the observing one, whose noise shares do not count.",
        ("privacy.colluders", "statistics.colluders", "constants.colluders"),
        "1",
        only_private=True,
        by_name=True,
    ),
    "statistics_share": TrainOption(
        options.BUDGET_SHARE,
        "Share of epsilon that shared counts may spend.",
        ("statistics.budget_share",),
        "0.5",
        only_private=True,
    ),
    "history_days": TrainOption(
        options.HISTORY_DAYS,
        "The noisy-or model, and trees inside its link, learn from the rows of so many days up to the end of training; "
        "0: from the training period alone. More rows cost no epsilon. Default: 56.",
        ("model.history_days",),
    ),
    "constants_share": TrainOption(
        options.BUDGET_SHARE,
        "Share of epsilon that computing scaling constants together may spend, where the schema asks for that. "
        "Default: 0.05.",
        ("constants.budget_share",),
        only_private=True,
        by_name=True,
    ),
    "increment_days": TrainOption(
        options.INCREMENT_DAYS,
        "Number of days of one count of frauds. Default by the epsilon of a count: 7 to 1.2, 3 to 1.9, 2 to 4, then 1.",
        ("statistics.increment_days",),
        only_private=True,
    ),
    "count_noise": TrainOption(
        options.Choice(("laplace", "gaussian")),
        "Noise of shared counts; a Gaussian has more variance and protects better at equal accuracy. Default: laplace.",
        ("statistics.count_noise",),
        only_private=True,
    ),
    "budget_dir": TrainOption(
        options.FOLDER,
        "Folder of the banks' privacy ledgers. Default: in the run folder.",
        ("privacy.budget_dir",),
        metavar="DIR",
        only_private=True,
    ),
    "rows_per_bank": TrainOption(
        options.ROWS_PER_BANK,
        "Training rows of a bank, to one digit, declared in public: batch, steps and learning rate of private training "
        "follow from it. Default: the settings for 8,000 rows (6,000 a week with noisy-or).",
        ("privacy.rows_per_bank",),
        only_private=True,
    ),
    "sample_rate": TrainOption(
        options.SAMPLE_RATE,
        "Probability that a row is in a noisy batch.",
        ("privacy.sample_rate",),
        "0.25",
        only_private=True,
        by_name=True,
        only_network=True,
    ),
    "local_steps": TrainOption(
        options.STEPS,
        "Number of noisy steps per round.",
        ("privacy.steps",),
        "10",
        only_private=True,
        only_network=True,
    ),
    "max_grad_norm": TrainOption(
        options.MAX_GRAD_NORM,
        "L2 bound of one row's gradient.",
        ("privacy.max_grad_norm",),
        "1.0",
        only_private=True,
    ),
    "expected_batch": TrainOption(
        options.EXPECTED_BATCH,
        "Public divisor of a noisy gradient, in rows.",
        ("privacy.expected_batch",),
        "2048.0",
        only_private=True,
    ),
    # --- training
    "local_epochs": TrainOption(
        options.EPOCHS,
        "Passes over a bank's rows per round, with --no-dp.",
        ("training.epochs", "baseline_training.epochs"),
        "16",
        only_network=True,
    ),
    "batch_size": TrainOption(
        options.BATCH_SIZE,
        "Rows of a batch, with --no-dp.",
        ("training.batch_size", "baseline_training.batch_size"),
        "512",
        by_name=True,
        only_network=True,
    ),
    "lr": TrainOption(
        options.LEARNING_RATE,
        "Learning rate of SGD. Default: 30 with privacy, 0.1 without; with --noise shared it follows from the noise.",
        ("training.learning_rate",),
    ),
    "pos_weight": TrainOption(
        options.POS_WEIGHT,
        "Weight of a fraud in the loss, a public constant. Default: 4, or 1 with --noise shared.",
        ("training.pos_weight",),
        only_network=True,
    ),
    # --- trees
    "trees": TrainOption(
        options.TREES,
        "Number of boosted trees. Default: 50 with --no-dp, 60 under privacy.",
        ("trees.trees",),
        only_trees=True,
    ),
    "depth": TrainOption(
        options.TREE_DEPTH,
        "Most splits between the root and a leaf. Default: 4.",
        ("trees.depth",),
        only_trees=True,
    ),
    "learning_rate": TrainOption(
        options.TREE_RATE,
        "Share of each tree's step that is taken. Default: 0.2 with --no-dp, 0.8 under privacy.",
        ("trees.rate",),
        only_trees=True,
    ),
    "bins": TrainOption(
        options.BINS,
        "Most bins of a column of numbers. Default: 64 with --no-dp, 32 of equal width under privacy.",
        ("trees.bins",),
        only_trees=True,
    ),
    "inputs": TrainOption(
        options.INPUTS,
        "trees: risk: beside the risk of shared parties, inside the noisy-or link; own: on all columns of the bank's "
        "own, with shared windows as more columns. Default: risk where banks share counts.",
        ("model.inputs",),
        by_name=True,
        only_trees=True,
    ),
    "tree_penalty": TrainOption(
        options.TREE_PENALTY,
        "trees: lambda, which keeps the steps of small leaves short. Default: 5 with --no-dp, 200 under privacy.",
        ("trees.penalty",),
        by_name=True,
        only_trees=True,
    ),
    "class_weight": TrainOption(
        options.CLASS_WEIGHT,
        "trees: weight of a fraud in the loss, a power of two. Default: 1.",
        ("trees.class_weight",),
        by_name=True,
        only_trees=True,
    ),
    "least_rows": TrainOption(
        options.LEAST_ROWS,
        "trees: fewest rows of all banks on either side of a split. Default: 1.",
        ("trees.least_rows",),
        by_name=True,
        only_trees=True,
    ),
    "row_share": TrainOption(
        options.DRAWN_SHARE,
        "trees: share of the rows that a tree learns from, drawn by --seed. Default: 1.",
        ("trees.row_share",),
        by_name=True,
        only_trees=True,
    ),
    "column_share": TrainOption(
        options.DRAWN_SHARE,
        "trees: share of the columns that a tree may split by, drawn by --seed. Default: 1.",
        ("trees.column_share",),
        by_name=True,
        only_trees=True,
    ),
    "patience": TrainOption(
        options.PATIENCE,
        "trees: stop after so many trees without a lower loss on validation rows; 0: never. Default: 0.",
        ("trees.patience",),
        by_name=True,
        only_trees=True,
    ),
    # --- rounds
    "algorithm": TrainOption(
        options.Choice(("fedavg", "fedprox", "fedadam", "heads", "fedbuff")),
        "Algorithm of the rounds. docs/algorithms.md compares them.",
        ("algorithm.name",),
        "fedavg",
        only_network=True,
    ),
    "mu": TrainOption(
        options.MU,
        "fedprox: weight of the term that keeps a bank near the global model. Default: 0.01.",
        ("algorithm.mu",),
        by_name=True,
        only_network=True,
    ),
    "server_lr": TrainOption(
        options.SERVER_LR,
        "fedadam: step of the server, default 0.03. fedbuff: factor of an update, default 1.",
        ("algorithm.server_lr",),
        by_name=True,
        only_network=True,
    ),
    "beta1": TrainOption(
        options.BETA, "fedadam: decay of the mean. Default: 0.9.", ("algorithm.beta1",), by_name=True, only_network=True
    ),
    "beta2": TrainOption(
        options.BETA,
        "fedadam: decay of the squares. Default: 0.99.",
        ("algorithm.beta2",),
        by_name=True,
        only_network=True,
    ),
    "tau": TrainOption(
        options.TAU,
        "fedadam: degree of adaptivity. Default: 0.001.",
        ("algorithm.tau",),
        by_name=True,
        only_network=True,
    ),
    "head": TrainOption(
        options.LAYERS,
        "heads: layers that stay at their bank. Default: logit.",
        ("algorithm.head",),
        by_name=True,
        only_network=True,
    ),
    "buffer": TrainOption(
        options.SEALED_BUFFER,
        "fedbuff: number of joins at which a round closes. Default: 3.",
        ("algorithm.buffer",),
        by_name=True,
        only_network=True,
    ),
    "max_weight": TrainOption(
        options.MAX_WEIGHT,
        "fedbuff: weight of an update that is not stale. Default: 8.",
        ("algorithm.max_weight",),
        by_name=True,
        only_network=True,
    ),
    "durations": TrainOption(
        options.Text("ticks with commas"),
        "fedbuff: ticks that each bank trains, repeated over the banks. Default: 1,2,3.",
        ("algorithm.durations",),
        by_name=True,
        only_network=True,
    ),
    "fraction": TrainOption(
        options.FRACTION,
        "Share of the banks that a round asks, drawn anew for every round.",
        ("participation.fraction",),
        "1.0",
        only_network=True,
    ),
    "quorum": TrainOption(
        options.QUORUM,
        "Smallest number of banks in a round. Default: all that the round asked.",
        ("participation.quorum",),
        only_network=True,
    ),
    "vanish_before": TrainOption(
        options.PROBABILITY,
        "Simulate: probability that a bank vanishes before the roster closes.",
        ("participation.vanish_before",),
        "0.0",
        by_name=True,
        only_network=True,
    ),
    "vanish_after": TrainOption(
        options.PROBABILITY,
        "Simulate: probability that a bank vanishes after the roster has closed.",
        ("participation.vanish_after",),
        "0.0",
        only_network=True,
    ),
    "retries": TrainOption(
        options.RETRIES,
        "Attempts at a lost round beyond the first; with --no-dp each bank consents to as many.",
        ("participation.retries",),
        "2",
        by_name=True,
        only_network=True,
    ),
    "reuse_updates": TrainOption(
        options.SWITCH,
        "With --no-dp: send the same update again in a retry, without training.",
        ("participation.reuse",),
        by_name=True,
        only_network=True,
    ),
    # --- attackers, and rules that leave them out
    "robust": TrainOption(
        options.RULE_OR_NONE,
        "Rule that leaves out updates unlike the others. outliers is for unknown numbers of attackers; norm is the "
        "weakest; nnm, multikrum and krum need --byzantine; none leaves out the rule of --config.",
        ("robust.rule",),
        only_network=True,
    ),
    "byzantine": TrainOption(
        options.ATTACKERS,
        "Number of attackers that the rule of --robust is to withstand.",
        ("robust.byzantine",),
        only_network=True,
    ),
    "attack": TrainOption(
        options.ATTACK_OR_NONE,
        "Simulate: what the --attackers send to spoil the model. none leaves out the attackers of --config.",
        ("attack.name",),
        only_network=True,
    ),
    "attackers": TrainOption(
        options.ATTACKERS,
        "Simulate: number of banks, drawn by --seed, that play the --attack.",
        ("attack.attackers",),
        only_network=True,
    ),
    # --- aggregation
    "aggregation": TrainOption(
        options.Choice(("encrypted", "plain")),
        "How updates are averaged: encrypted, or plain, which hides nothing.",
        ("aggregation.mode",),
        "encrypted",
    ),
    "engine": TrainOption(options.ENGINE, "Encryption engine.", ("aggregation.engine",), "auto"),
    "clip": TrainOption(options.CLIP, "Bound of every coordinate of an update.", ("aggregation.clip",), "1.0"),
    "value_bits": TrainOption(
        options.VALUE_BITS,
        "Bits of a quantised coordinate. Default: 16 with privacy, 40 without.",
        ("aggregation.value_bits",),
    ),
    "bits": TrainOption(
        options.Text("FROM:BITS with commas"),
        "Bits of a coordinate by round, for example 1:8,6:16. Cannot be combined with --value-bits.",
        ("compression.bits",),
        by_name=True,
        only_network=True,
    ),
    "layers": TrainOption(
        options.Text("groups of layers with /"),
        "Layers that are sent, in turn, for example hidden1/hidden2,logit.",
        ("compression.layers",),
        by_name=True,
        only_network=True,
    ),
    "limits": TrainOption(
        options.FILE,
        "File with limits of single banks. docs/algorithms.md has an example.",
        ("resources.file",),
        metavar="FILE.toml",
        only_network=True,
    ),
    "bank_memory_mb": TrainOption(
        options.MEMORY_MB,
        "Memory in MiB of every bank that --limits does not name.",
        ("resources.memory_mb",),
        by_name=True,
        only_network=True,
    ),
    "bank_seconds": TrainOption(
        options.SECONDS,
        "Seconds per round of every bank that --limits does not name.",
        ("resources.seconds",),
        by_name=True,
        only_network=True,
    ),
    "bank_bytes": TrainOption(
        options.BYTES,
        "Bytes per round of every bank that --limits does not name.",
        ("resources.bytes_per_round",),
        by_name=True,
        only_network=True,
    ),
    # --- the run
    "seed": TrainOption(
        options.SEED, "Seed of data, first model and batch order. Keys and noise are never seeded.", ("seed",), "0"
    ),
    "device": TrainOption(options.Choice(("cpu", "cuda")), "Where torch computes.", ("device",), "cpu"),
    "threads": TrainOption(
        options.THREADS, "Number of threads of torch. One is fastest for small models.", ("threads",), "1"
    ),
    "no_baselines": TrainOption(
        options.SWITCH,
        "Leave out the baselines, which are outside every privacy budget. Nobody then knows what joining is worth.",
        ("with_baselines",),
    ),
}


def flag(name: str) -> str:
    """How a person writes the option on the command line."""
    return f"--option {name}" if TRAIN_OPTIONS[name].by_name else f"--{name.replace('_', '-')}"
