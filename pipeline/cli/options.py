"""The options that several commands share, each the keyword of the Python function behind it."""

from __future__ import annotations

from typing import Annotated

import typer

FEATURES = "Features"
LABELS = "Labels"
HEADS = "Heads"
WORK = "Work"
ALWAYS = "Always"

FLAG = ""  # the metavar of an option that takes no value

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder, one photo, a table, a tar or Parquet file of images or a pattern of such shards "
        "(train-{000..099}.tar), an array file, a built-in name (photo-crops, digits), or a cache.",
    ),
]
DataArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA",
        help="Folders, photos, tables, tar or Parquet files of images or patterns of such shards "
        "(train-{000..099}.tar), array files, built-in names (photo-crops, digits), or caches.",
    ),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, as `pipeline fit` writes it.")]

Backbone = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone",
        metavar="NAME[:WEIGHTS]",
        help="The pretrained network; WEIGHTS is a torchvision enum name, a file, or `random`. May be repeated.",
        show_default="efficientnet_lite0",
        rich_help_panel=FEATURES,
    ),
]
Layer = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="early, middle, late, penultimate, all, or an exact node name. May be repeated.",
        show_default="penultimate",
        rich_help_panel=FEATURES,
    ),
]
Cache = Annotated[str, typer.Option("--cache", metavar="DIR", help="The folder of caches.", rich_help_panel=FEATURES)]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="fp32|bf16|fp16",
        help="The network's arithmetic; changes the features, so it is keyed.",
        rich_help_panel=FEATURES,
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--store", metavar="fp32|fp16", help="The type of the stored features; keyed too.", rich_help_panel=FEATURES
    ),
]
Decode = Annotated[
    str,
    typer.Option(
        "--decode",
        metavar="exact|fast",
        help="How photos become pixels; fast is hardly a grey level off (extra `fast`), and keyed.",
        rich_help_panel=FEATURES,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images that go through the network together.",
        show_default="the runtime's choice",
        rich_help_panel=FEATURES,
    ),
]
OnError = Annotated[
    str,
    typer.Option(
        "--on-error",
        metavar="skip|stop",
        help="Whether a photo that cannot be read is listed and left out, or ends the run.",
        rich_help_panel=FEATURES,
    ),
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash",
        metavar=FLAG,
        help="Compare the content of every image, not its size and time.",
        rich_help_panel=FEATURES,
    ),
]
Recheck = Annotated[
    int | None,
    typer.Option(
        "--recheck",
        metavar="N",
        min=0,
        help="Recompute N reused rows at random and compare.",
        show_default="3 where the network runs anyway, otherwise 0",
        rich_help_panel=FEATURES,
    ),
]

Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Make only part I of N, for job arrays; N runs, here or elsewhere, make the whole cache.",
        rich_help_panel=FEATURES,
    ),
]

Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="TABLE",
        help="A table with an id column: CSV, TSV, Excel (FILE.xlsx or FILE.xlsx:SHEET), .ods, Parquet, JSON Lines.",
        rich_help_panel=LABELS,
    ),
]
Id = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="COLUMN",
        help="The table's column of ids: paths as they stand under DATA.",
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
        metavar="GLOB[:class|number|multi|onehot]",
        help="Label columns; of the kind multi a cell holds several tags, split at ; or | or comma, or a list; "
        "'tags:multi(/)' splits at a slash; onehot reads columns of 0 and 1 as one label set. May be repeated.",
        show_default="all that look like labels",
        rich_help_panel=LABELS,
    ),
]
OneColumn = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="The column of true labels.",
        show_default="the one that the model learned",
        rich_help_panel=LABELS,
    ),
]
LabelLevel = Annotated[
    int | None,
    typer.Option(
        "--label-level",
        metavar="N",
        help="The level of the folders that name the classes: 1 is the top level of DATA, -1 the folder that an image "
        "lies in.",
        show_default="found from the names",
        rich_help_panel=LABELS,
    ),
]
MinClassSize = Annotated[
    int | None,
    typer.Option(
        "--min-class-size",
        metavar="N",
        min=1,
        help="Leave out classes, or tags, with fewer than N labelled images to train on.",
        show_default="a class too small stops the run",
        rich_help_panel=LABELS,
    ),
]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        metavar="TEXT",
        help='A text that means "not known" in the labels, such as NULL. May be repeated.',
        show_default="empty, NA, NaN",
        rich_help_panel=LABELS,
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        "--groups",
        metavar="COLUMN",
        help="Images of one group stay on one side of every split.",
        rich_help_panel=LABELS,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="COLUMN",
        help="A column that fixes train and test; `none` ignores one.",
        rich_help_panel=LABELS,
    ),
]
Test = Annotated[
    str | None,
    typer.Option("--test", metavar="DATA", help="A test set of its own, scored once.", rich_help_panel=LABELS),
]

Head = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="HEAD",
        help="What is trained on the features: a name of `pipeline heads`, `fast`, `all`, or an import path. "
        "May be repeated.",
        show_default="logistic; ridge for numbers",
        rich_help_panel=HEADS,
    ),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="HEAD.PARAM=V,V",
        help="Values to choose among; one value fixes the parameter. May be repeated.",
        show_default="see `pipeline heads`",
        rich_help_panel=HEADS,
    ),
]
Cv = Annotated[int, typer.Option("--cv", metavar="N", min=2, help="Outer and inner folds.", rich_help_panel=HEADS)]
Nested = Annotated[
    bool,
    typer.Option(
        "--nested/--no-nested",
        metavar=FLAG,
        help="--no-nested is faster, and its scores are optimistic.",
        rich_help_panel=HEADS,
    ),
]
Scoring = Annotated[
    list[str] | None,
    typer.Option(
        "--scoring",
        metavar="NAME",
        help="scikit-learn scorers; the first one chooses. May be repeated.",
        show_default="balanced_accuracy; r2 for numbers; average_precision for multi",
        rich_help_panel=HEADS,
    ),
]

Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]",
        help="Where the network runs; heads are searched there too where a GPU is named.",
        rich_help_panel=WORK,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", metavar="N", min=1, help="Workers.", show_default="as many as cores", rich_help_panel=WORK),
]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Work on the Dask cluster of this scheduler, such as tcp://10.0.0.1:8786.",
        show_default="this machine",
        rich_help_panel=WORK,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Everything random is drawn from it.", rich_help_panel=WORK)
]

Json = Annotated[
    bool, typer.Option("--json", metavar=FLAG, help="Print one JSON object on stdout.", rich_help_panel=ALWAYS)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", metavar=FLAG, help="Nothing on stderr but errors.", rich_help_panel=ALWAYS)
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
        help="The layer of the curves: early, middle, late, penultimate, or an exact node name. The four are compared "
        "at a few numbers of labels anyhow.",
        rich_help_panel=FEATURES,
    ),
]
OneHead = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="HEAD",
        help="What learns from features: a name of `pipeline heads` or an import path.",
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
        help="Images to learn from, and to be tested on, at most; so many are drawn where there are more.",
        rich_help_panel=WORK,
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        help="What the whole study may take by the clock; trainings that do not fit are skipped and named. "
        "inf skips none.",
        rich_help_panel=WORK,
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        help="What one training from scratch may take at most: of one core, or by the clock on a GPU.",
        rich_help_panel=WORK,
    ),
]

RunFolder = Annotated[
    str | None,
    typer.Option("--out", metavar="RUN", help="The folder to keep the results in.", show_default="runs/<name>"),
]
StudyFolder = Annotated[
    str | None,
    typer.Option("--out", metavar="RUN", help="The folder to keep the results in.", show_default="runs/<name>-study"),
]
ScoreFolder = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="RUN",
        help="The folder to keep scores and answers in, for `pipeline report`; the photos' features go to the cache.",
        show_default="nothing is kept",
    ),
]
EarlierRun = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="The folder of an earlier run: what it has computed is not computed again.",
        show_default="the runs of these photos in runs/",
    ),
]
ModelFolder = Annotated[str, typer.Option("--out", metavar="MODEL", help="The model folder to write, e.g. bees.model.")]
Weights = Annotated[
    bool,
    typer.Option(
        "--weights/--no-weights", metavar=FLAG, help="Whether the backbone's weights are saved with the model."
    ),
]
KeepPhotos = Annotated[
    bool,
    typer.Option(
        "--keep-photos",
        metavar=FLAG,
        help="Keep small pictures and the embeddings of the training photos in the model; whoever has it sees them.",
    ),
]
Neighbours = Annotated[
    int,
    typer.Option("--neighbours", metavar="K", min=0, help="How many of the most similar training photos to name."),
]
TrainingCache = Annotated[
    str,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="The folder of caches: the training photos' embeddings are looked for there, unless the model keeps them.",
    ),
]
AnswerFormat = Annotated[
    str | None,
    typer.Option("--format", metavar="csv|parquet|jsonl", help="Of the answers.", show_default="by the ending; csv"),
]
CsvCells = Annotated[
    str,
    typer.Option(
        "--csv",
        metavar="safe|plain",
        help="safe puts an apostrophe before a cell that a spreadsheet would compute; plain writes cells as they are.",
    ),
]
Host = Annotated[
    str,
    typer.Option("--host", metavar="ADDRESS", help="Where to listen; anything but this machine itself needs a token."),
]
Port = Annotated[
    int, typer.Option("--port", metavar="N", min=0, max=65535, help="The port to listen on; 0 takes a free one.")
]
TokenFile = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="A file with the token that every request has to show.",
        show_default="none is expected on this machine",
    ),
]
Top = Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many classes to name, the likeliest first.")]
AnswerFile = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="FILE.csv|.parquet|.jsonl",
        help="Write the answers to this file.",
        show_default="CSV on stdout",
    ),
]
ExportPlace = Annotated[
    str,
    typer.Option(
        "--out", metavar="PATH", help="The file to write, e.g. bees.onnx; for torch a folder, e.g. bees.torch."
    ),
]
ExportFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="onnx|torch",
        help="One ONNX file, or a folder for plain torchvision (linear heads), with a torch.export program in it.",
    ),
]
Check = Annotated[
    str | None,
    typer.Option(
        "--check",
        metavar="DIR",
        help="Photos to check it on.",
        show_default="those it learned from, or others at hand",
    ),
]
