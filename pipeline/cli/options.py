"""The options of all commands, each declared once under the keyword of the Python function that it is passed to.

`with_options` builds the signature of a command from this table, so a command lists which options it has, not their
flags, types, defaults and help. A test compares names and defaults with the Python functions, which are not imported
here: ``--help`` must load neither torch nor scikit-learn.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_args

import typer

Command = TypeVar("Command", bound=Callable[..., Any])

FEATURES = "Features"
LABELS = "Labels"
HEADS = "Heads"
OUTPUT = "Output"
ADVANCED = "Advanced"
GROUPS = (FEATURES, LABELS, HEADS, OUTPUT, ADVANCED)  # in the order of the help, after the common options

FLAG = ""  # the metavar of an option that takes no value

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of photos, one photo, a table, a tar or Parquet file of images or a pattern of such files "
        "(train-{000..099}.tar), an array file, a built-in name (photo-crops, digits), or a cache.",
    ),
]
DataArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA",
        help="Folders of photos, photos, tables, tar or Parquet files of images or patterns of such files "
        "(train-{000..099}.tar), array files, built-in names (photo-crops, digits), or caches.",
    ),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, as `pipeline fit` writes it.")]

Backbone = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone",
        metavar="NAME[:WEIGHTS]",
        help="The pretrained network that computes the features; WEIGHTS is a torchvision name, a file, or `random`. "
        "May be repeated.",
        show_default="efficientnet_lite0",
        rich_help_panel=FEATURES,
    ),
]
Layer = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="The layer whose output is used: early, middle, late, penultimate, all, or a node name. May be repeated.",
        show_default="penultimate",
        rich_help_panel=FEATURES,
    ),
]
Cache = Annotated[
    str,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="The folder in which features are stored.",
        rich_help_panel=FEATURES,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="fp32|bf16|fp16",
        help="The network's arithmetic. Each precision has its own cache.",
        rich_help_panel=ADVANCED,
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="fp32|fp16",
        help="The type of the stored features. Each type has its own cache.",
        rich_help_panel=ADVANCED,
    ),
]
Decode = Annotated[
    str,
    typer.Option(
        "--decode",
        metavar="exact|fast",
        help="How photos are decoded. `fast` is 4 times as fast on 12-megapixel JPEGs; gray levels differ by 0.3 on "
        "average (extra `fast`). It has its own cache.",
        rich_help_panel=ADVANCED,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images per call of the network.",
        show_default="the runtime's choice",
        rich_help_panel=ADVANCED,
    ),
]
OnError = Annotated[
    str,
    typer.Option(
        "--on-error",
        metavar="skip|stop",
        help="Leave out a photo that cannot be read and list it, or stop.",
        rich_help_panel=ADVANCED,
    ),
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash",
        metavar=FLAG,
        help="Compare the content of every file instead of its size and time.",
        rich_help_panel=ADVANCED,
    ),
]
Recheck = Annotated[
    int | None,
    typer.Option(
        "--recheck",
        metavar="N",
        min=0,
        help="Recompute N stored rows, chosen at random, and compare.",
        show_default="3 if the network runs, otherwise 0",
        rich_help_panel=ADVANCED,
    ),
]

Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Compute only part I of N, for job arrays; N runs on any machines make the whole cache.",
        rich_help_panel=ADVANCED,
    ),
]

Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="TABLE",
        help="A table of labels with a column `id`: CSV, TSV, Excel (FILE.xlsx or FILE.xlsx:SHEET), .ods, Parquet, "
        "JSON Lines.",
        rich_help_panel=LABELS,
    ),
]
Id = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="COLUMN",
        help="The table's column with the path of each photo inside DATA.",
        show_default="id, path, file, ...",
        rich_help_panel=LABELS,
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        "--root", metavar="DIR", help="The folder that a table's paths are relative to.", rich_help_panel=LABELS
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME[:KIND]",
        help="The columns with the labels; * matches any text. KIND is class, number, multi (a cell holds several "
        "tags, separated by ; or | or comma; multi(/) separates at a slash) or onehot (columns of 0 and 1 that are "
        "one label). May be repeated.",
        show_default="all that look like labels",
        rich_help_panel=LABELS,
    ),
]
OneColumn = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="The column of the true labels.",
        show_default="the one that the model was trained on",
        rich_help_panel=LABELS,
    ),
]
LabelLevel = Annotated[
    int | None,
    typer.Option(
        "--label-level",
        metavar="N",
        help="The level of the folders that name the classes: 1 is the top level of DATA, -1 the folder that "
        "contains the image.",
        show_default="found from the folder names",
        rich_help_panel=LABELS,
    ),
]
MinClassSize = Annotated[
    int | None,
    typer.Option(
        "--min-class-size",
        metavar="N",
        min=1,
        help="Leave out classes or tags with fewer than N labelled images to train on.",
        show_default="a class that is too small is an error",
        rich_help_panel=LABELS,
    ),
]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        metavar="TEXT",
        help='A text that means "no label", such as NULL. May be repeated.',
        show_default="empty, NA, NaN",
        rich_help_panel=LABELS,
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        "--groups",
        metavar="COLUMN",
        help="A column that names related photos, such as those of one animal: they are never separated.",
        rich_help_panel=LABELS,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="COLUMN",
        help="A column that says which photos train and which test; `none` ignores one.",
        rich_help_panel=LABELS,
    ),
]
Test = Annotated[
    str | None,
    typer.Option("--test", metavar="DATA", help="A separate test set, scored once.", rich_help_panel=LABELS),
]

Head = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="HEAD",
        help="The classifier that is trained on the features: a name from `pipeline heads`, `fast`, `all`, or an "
        "import path. May be repeated.",
        show_default="logistic; ridge for numbers",
        rich_help_panel=HEADS,
    ),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="HEAD.PARAM=V,V",
        help="Values of a head's parameter to choose from; one value fixes it. May be repeated.",
        show_default="see `pipeline heads`",
        rich_help_panel=HEADS,
    ),
]
Cv = Annotated[
    int,
    typer.Option(
        "--cv",
        metavar="N",
        min=2,
        help="Number of folds: parts of the photos, each predicted by a head that was trained on the others.",
        rich_help_panel=HEADS,
    ),
]
Nested = Annotated[
    bool,
    typer.Option(
        "--nested/--no-nested",
        metavar=FLAG,
        help="--no-nested is faster, but its scores are too optimistic.",
        rich_help_panel=HEADS,
    ),
]
Scoring = Annotated[
    list[str] | None,
    typer.Option(
        "--scoring",
        metavar="NAME",
        help="scikit-learn scorers; the first one selects. May be repeated.",
        show_default="balanced_accuracy; r2 for numbers; average_precision for multi",
        rich_help_panel=HEADS,
    ),
]

Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]",
        help="Where the network runs; if a GPU is named, heads are trained there too.",
        rich_help_panel=ADVANCED,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, help="Number of workers.", show_default="one per core", rich_help_panel=ADVANCED
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Use the Dask cluster of this scheduler, such as tcp://10.0.0.1:8786.",
        show_default="this machine",
        rich_help_panel=ADVANCED,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything that is random.", rich_help_panel=ADVANCED)
]

Json = Annotated[
    bool, typer.Option("--json", metavar=FLAG, help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", metavar=FLAG, help="Print only errors on stderr.", rich_help_panel=OUTPUT)
]

OneBackbone = Annotated[
    str,
    typer.Option(
        "--backbone",
        metavar="NAME[:WEIGHTS]",
        help="The pretrained network; WEIGHTS is a torchvision enum name or a file.",
        rich_help_panel=FEATURES,
    ),
]
OneLayer = Annotated[
    str,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="The layer of the curves: early, middle, late, penultimate, or a node name. The four named layers are "
        "always compared at two numbers of labels.",
        rich_help_panel=FEATURES,
    ),
]
OneHead = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="HEAD",
        help="The classifier that is trained on the features: a name from `pipeline heads` or an import path.",
        show_default="logistic",
        rich_help_panel=HEADS,
    ),
]
MostLabels = Annotated[
    int,
    typer.Option(
        "--most-labels",
        metavar="N",
        min=1,
        help="At most N training and N test images; of more, N are drawn.",
        rich_help_panel=ADVANCED,
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        help="Time limit of the whole study; trainings that do not fit are skipped and named. inf: no limit.",
        rich_help_panel=ADVANCED,
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        help="Limit of one training from scratch: processor time of one core, on a GPU elapsed time.",
        rich_help_panel=ADVANCED,
    ),
]

RunFolder = Annotated[
    str | None,
    typer.Option(
        "--out", metavar="RUN", help="The folder for the results.", show_default="runs/<name>", rich_help_panel=OUTPUT
    ),
]
StudyFolder = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="RUN",
        help="The folder for the results.",
        show_default="runs/<name>-study",
        rich_help_panel=OUTPUT,
    ),
]
ScoreFolder = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="RUN",
        help="The folder for scores and predictions, for `pipeline report`; the features go to the cache.",
        show_default="nothing is saved",
        rich_help_panel=OUTPUT,
    ),
]
EarlierRun = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="The folder of an earlier run, whose results are reused.",
        show_default="the runs of these photos in runs/",
        rich_help_panel=OUTPUT,
    ),
]
ModelFolder = Annotated[
    str,
    typer.Option("--out", metavar="MODEL", help="The model folder to write, e.g. bees.model.", rich_help_panel=OUTPUT),
]
Weights = Annotated[
    bool,
    typer.Option(
        "--weights/--no-weights", metavar=FLAG, help="Save the backbone's weights in the model.", rich_help_panel=OUTPUT
    ),
]
KeepPhotos = Annotated[
    bool,
    typer.Option(
        "--keep-photos",
        metavar=FLAG,
        help="Keep thumbnails and features of the training photos in the model; anyone who has it can see them.",
        rich_help_panel=OUTPUT,
    ),
]
Neighbours = Annotated[
    int,
    typer.Option("--neighbours", metavar="K", min=0, help="Number of most similar training photos to name."),
]
TrainingCache = Annotated[
    str,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="The folder of caches, which has the features of the training photos unless the model keeps them.",
    ),
]
AnswerFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="csv|parquet|jsonl",
        help="Format of the predictions.",
        show_default="from the file ending; csv",
        rich_help_panel=OUTPUT,
    ),
]
CsvCells = Annotated[
    str,
    typer.Option(
        "--csv",
        metavar="safe|plain",
        help="safe: an apostrophe before a cell that a spreadsheet would run as a formula; plain: cells unchanged.",
        rich_help_panel=OUTPUT,
    ),
]
Host = Annotated[
    str,
    typer.Option("--host", metavar="ADDRESS", help="Where to listen; an address that others can reach needs a token."),
]
Port = Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="The port; 0 takes a free one.")]
TokenFile = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="A file with the token that every request must send.",
        show_default="no token on this machine",
    ),
]
Top = Annotated[
    int, typer.Option("--top", metavar="N", min=1, help="Number of classes per photo, the most probable first.")
]
AnswerFile = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="FILE.csv|.parquet|.jsonl",
        help="The file for the predictions.",
        show_default="CSV on stdout",
        rich_help_panel=OUTPUT,
    ),
]
ExportPlace = Annotated[
    str,
    typer.Option(
        "--out",
        metavar="PATH",
        help="The file to write, e.g. bees.onnx; for torch a folder, e.g. bees.torch.",
        rich_help_panel=OUTPUT,
    ),
]
ExportFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="onnx|torch",
        help="One ONNX file, or a folder for plain torchvision (linear heads), with a torch.export program in it.",
        rich_help_panel=OUTPUT,
    ),
]
Check = Annotated[
    str | None,
    typer.Option(
        "--check",
        metavar="DIR",
        help="Photos to check the export on.",
        show_default="the training photos, or built-in ones",
    ),
]

# Keyword -> type with flag and help, default on the command line. None: not passed on, so the function's own default
# holds.
OPTIONS: dict[str, tuple[Any, Any]] = {
    "backbone": (Backbone, None),
    "layer": (Layer, None),
    "cache": (Cache, "features_cache"),
    "precision": (Precision, "fp32"),
    "store": (Store, "fp32"),
    "decode": (Decode, "exact"),
    "batch_size": (BatchSize, None),
    "on_error": (OnError, "skip"),
    "rehash": (Rehash, False),
    "recheck": (Recheck, None),
    "part": (Part, None),
    "labels": (Labels, None),
    "id_column": (Id, None),
    "root": (Root, None),
    "label_level": (LabelLevel, None),
    "min_class_size": (MinClassSize, None),
    "column": (Column, None),
    "missing": (Missing, None),
    "groups": (Groups, None),
    "split": (Split, None),
    "test": (Test, None),
    "heads": (Head, None),
    "grid": (Grid, None),
    "cv": (Cv, 5),
    "nested": (Nested, True),
    "scoring": (Scoring, None),
    "most_labels": (MostLabels, 2000),
    "budget": (Budget, 120),
    "time_limit": (TimeLimit, 540),
    "device": (Device, "auto"),
    "n_jobs": (Jobs, None),
    "dask": (Dask, None),
    "random_state": (Seed, 0),
    "weights": (Weights, True),
    "keep_photos": (KeepPhotos, False),
    "run": (EarlierRun, None),
    "top": (Top, 3),
    "neighbours": (Neighbours, 0),
    "csv": (CsvCells, "safe"),
    "check": (Check, None),
    "host": (Host, "127.0.0.1"),
    "port": (Port, 8000),
    "token_file": (TokenFile, None),
    "as_json": (Json, False),
    "quiet": (Quiet, False),
}

# Groups of options that several commands have.
EXTRACTION = ("backbone", "layer", "cache", "precision", "store", "decode", "batch_size", "on_error")
LABELLING = ("labels", "id_column", "root", "label_level", "column", "missing", "groups")
WORKERS = ("device", "n_jobs", "dask")
ALWAYS = ("as_json", "quiet")
EVALUATION = (
    *EXTRACTION,
    *LABELLING,
    *("min_class_size", "split", "test", "heads", "grid", "cv", "nested", "scoring"),
    *WORKERS,
    "random_state",
    *ALWAYS,
)


def with_options(*common: str, more: tuple[str, ...] = (), **replaced: tuple[Any, Any]) -> Callable[[Command], Command]:
    """Give a command its options: the common ones first in the help, the others in their groups.

    Parameters
    ----------
    *common : str
        Keywords of `OPTIONS`, in the order of the help.
    more : tuple of str
        Further keywords, shown in their groups; those that are common are shown once.
    **replaced : (type, default)
        Options that differ in this command, such as ``--out``; one that is neither common nor in `more` is shown after
        the common ones in its own group.
    """
    table = OPTIONS | replaced
    rest = [name for name in dict.fromkeys((*replaced, *more)) if name not in common]
    rest.sort(key=lambda name: GROUPS.index(_group(table[name][0])))

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)  # Typer takes a signature that is set as it is
        own = [given for given in signature.parameters.values() if given.kind is not given.VAR_KEYWORD]
        options = {name: _in_first_panel(table[name][0]) for name in common} | {name: table[name][0] for name in rest}
        made = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=annotation,
                default=inspect.Parameter.empty if table[name][1] is ... else table[name][1],
            )
            for name, annotation in options.items()
        ]
        command.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
        command.__annotations__ = {given.name: given.annotation for given in own} | options
        return command

    return decorate


def in_one_panel(command: Command) -> Command:
    """Show all options of a command in the first panel of its help; for commands with few options.

    The options are the parameters of the command itself.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        parameter.replace(annotation=_in_first_panel(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def passed(given: Mapping[str, Any], *, without: tuple[str, ...] = ALWAYS) -> dict[str, Any]:
    """Return the options to pass on to the Python function: those that were given, or have a default here."""
    return {name: value for name, value in given.items() if name not in without and value is not None and value != []}


def _group(annotation: Any) -> str:
    panel = get_args(annotation)[1].rich_help_panel
    return panel if panel in GROUPS else OUTPUT


def _in_first_panel(annotation: Any) -> Any:
    kind, info = get_args(annotation)[:2]
    info = copy.copy(info)
    info.rich_help_panel = None
    return Annotated[kind, info]
