"""Mistakes of users, and words of the answer that each must have. `benchmarks.mistakes` and the tests make them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mistake:
    """A command line with what surrounds it. says: words of the message."""

    what: str
    command: tuple[str, ...]
    says: str
    files: dict[str, str | bytes] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    model: bool = False  # needs the registered model


def setting(what: str, override: str, says: str) -> Mistake:
    return Mistake(what, ("run", "--set", override), says)


def around(what: str, name: str, value: str, says: str, *command: str, **files: str) -> Mistake:
    """A wrong environment variable; {site} stands for the working folder."""
    return Mistake(what, command or ("run",), says, dict(files), {name: value})


COMMANDS = [
    Mistake("a misspelt command", ("trian",), "No such command 'trian'"),
    Mistake("another one", ("promot", "1"), "Did you mean 'promote'?"),
    Mistake("a misspelt option", ("run", "--sett", "a=1"), "did you mean --set?"),
    Mistake("a value where none belongs", ("run", "demo"), "unexpected argument demo"),
    Mistake("no value for an option", ("run", "--data"), "--data"),
    Mistake("too few trials", ("tune", "--trials", "0"), "it must be at least 1"),
    Mistake("a search for an unknown part", ("tune", "--what", "ranker"), "did you mean reranker?"),
    Mistake(
        "a search where nothing can be chosen", ("tune", "--set", "retrieve.model=popularity"), "no settings to search"
    ),
    Mistake("an unknown comparison", ("benchmark", "--table", "9"), "did you mean"),
    Mistake("an unknown system", ("benchmark", "--only", "sasrek"), "did you mean sasrec?"),
    Mistake("neither true nor false", ("run", "--dry-run-is", "perhaps"), "dry_run is true or false, not 'perhaps'"),
    Mistake("a port that there cannot be", ("serve", "--port", "99999"), "it must be at most 65535"),
    Mistake("no reason for a promotion", ("promote", "1"), "--reason"),
    Mistake("a version that is no number", ("promote", "one", "--reason", "better"), "version"),
    Mistake("nobody to recommend to", ("recommend",), "name a --user"),
    Mistake("a table on Spark", ("score", "--out", "o", "--master", "local[1]", "--table", "t"), "leave out --master"),
    Mistake("a schedule without a server", ("deployments",), "set PREFECT_API_URL"),
]
SETTINGS = [
    setting("a misspelt setting", "retrieve.epoch=5", "did you mean retrieve.epochs?"),
    setting("a misspelt section", "retreive.epochs=5", "did you mean retrieve.epochs?"),
    setting("a word for a number", "retrieve.epochs=many", "retrieve.epochs"),
    setting("a number out of range", "retrieve.epochs=0", "retrieve.epochs"),
    setting("no value", "retrieve.epochs", "section.field=value"),
    setting("an open quotation mark", "data.category='kitchen", "a quotation mark is not closed"),
    setting("a setting that was renamed", "rerank.ratio=0.1", "use rerank.finetune_share"),
    setting("a setting that was removed", "label.precision=int8", "label.precision was removed"),
    setting("two settings that do not fit", "rerank.n_reranked=200", "more than retrieve.n_retrieved"),
    setting("heads that do not divide", "retrieve.heads=3", "does not divide"),
    setting("an unknown choice", "data.source=amazn", "did you mean amazon?"),
    setting("a base model that is nowhere", "rerank.base=/nowhere/model", "/nowhere/model"),
    setting("a day that is none", "data.source=columns data.start_date=yesterday", "YYYY-MM-DD"),
    Mistake("a misspelt data set", ("run", "--data", "dem"), "did you mean demo?"),
    Mistake("a configuration that is nowhere", ("run", "--data", "nowhere.yaml"), "nowhere.yaml does not exist"),
    Mistake(
        "YAML that is none",
        ("run", "--data", "a.yaml"),
        "a.yaml, line 2: not valid YAML",
        {"a.yaml": "data: {name: shop\n"},
    ),
    Mistake(
        "an empty configuration",
        ("run", "--data", "a.yaml"),
        "and retrieve:, it is empty",
        {"a.yaml": ""},
    ),
    Mistake(
        "a misspelt field in YAML",
        ("run", "--data", "a.yaml"),
        "did you mean data.k_core?",
        {"a.yaml": "data: {name: shop, kcore: 3}\n"},
    ),
    Mistake(
        "a configuration without a name",
        ("run", "--data", "a.yaml"),
        "a.yaml: data.name is missing",
        {"a.yaml": "data: {k_core: 3}\n"},
    ),
    Mistake("two mistakes at once", ("config", "check", "--set", "retrieve.epohcs=1 rerank.lrr=1"), "rerank.lr"),
]
SURROUNDINGS = [
    around(
        "a state folder below a file", "SEALR_HOME", "{site}/note/state", "set SEALR_HOME to a folder", note="a file"
    ),
    around("a state folder without permission", "SEALR_HOME", "/proc/sealr", "set SEALR_HOME to a folder"),
    around(
        "an MLflow database without permission",
        "MLFLOW_TRACKING_URI",
        "sqlite:////proc/mlflow.db",
        "MLFLOW_TRACKING_URI",
    ),
    around(
        "an MLflow database that is none",
        "MLFLOW_TRACKING_URI",
        "sqlite:///text.db",
        "cannot be opened",
        **{"text.db": "no database " * 99},
    ),
    around("an MLflow server that is away", "MLFLOW_TRACKING_URI", "http://127.0.0.1:9", "does not answer"),
    around(
        "a PostgreSQL that is away", "MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/m", "cannot be reached"
    ),
    around("an address that is none", "MLFLOW_TRACKING_URI", "nonsense://x", "is not an address of MLflow"),
    around("a Prefect server that is away", "PREFECT_API_URL", "http://127.0.0.1:9/api", "prefect server start"),
    around("limits that are none", "SEALR_LIMITS", "record=5", "did you mean records?", "serve", "--model", "."),
    Mistake("a port in use", ("serve", "--model", ".", "--port", "{port}"), "port"),
]
MODELS = [
    Mistake("a model that is nowhere", ("recommend", "--user", "u1", "--model", "/nowhere/model"), "/nowhere/model"),
    Mistake(
        "a misspelt alias",
        ("recommend", "--user", "u1", "--model", "models:/sealr@champoin"),
        "did you mean champion?",
        model=True,
    ),
    Mistake(
        "a misspelt name",
        ("recommend", "--user", "u1", "--model", "models:/seelr@champion"),
        "did you mean sealr?",
        model=True,
    ),
    Mistake(
        "a version that is not there", ("promote", "7", "--reason", "better"), "sealr has no version 7", model=True
    ),
    Mistake("nobody to go back to", ("rollback", "--reason", "worse"), "no earlier champion", model=True),
    Mistake("a run that is not there", ("report", "0123"), "there is no MLflow run 0123", model=True),
    Mistake("a history that is nowhere", ("recommend", "--history", "none.json"), "none.json"),
    Mistake(
        "a history with a misspelt column",
        ("recommend", "--history", "h.csv"),
        "did you mean rating?",
        {"h.csv": "item,ratng\ni1,5\n"},
        model=True,
    ),
    Mistake(
        "a history without items", ("recommend", "--history", "h.csv"), "needs a column item", {"h.csv": "text\nfine\n"}
    ),
    Mistake("a history that is no JSON", ("recommend", "--history", "h.json"), "h.json", {"h.json": "[{"}),
    Mistake("a misspelt category", ("recommend", "--user", "u1", "--category", "Gardn"), "Gardn", model=True),
    Mistake("an output of unknown kind", ("score", "--out", "lists.xls"), "lists.xls", model=True),
    Mistake(
        "an output that exists", ("score", "--out", "o.csv"), "o.csv exists already", {"o.csv": "mine"}, model=True
    ),
    Mistake(
        "users without a column",
        ("score", "--users", "u.csv", "--out", "o.csv"),
        "needs a column user",
        {"u.csv": "name\nann\n"},
        model=True,
    ),
    Mistake("new items that are nowhere", ("items", "add", "none.csv"), "none.csv does not exist"),
    Mistake(
        "new items for a model without texts",
        ("items", "add", "new.csv"),
        "reads no texts",
        {"new.csv": "item,title\nn1,New\n"},
        model=True,
    ),
    Mistake(
        "a user to forget whom nobody knows",
        ("forget", "nobody", "--data", "demo"),
        "no trace of this user",
        model=True,
    ),
    Mistake("a comparison without what came next", ("compare", "models:/sealr/1", "models:/sealr/1"), "--next"),
    Mistake(
        "a comparison of a folder",
        ("compare", "model", "models:/sealr/1", "--next", "t.csv"),
        "model is not in the registry",
        {"t.csv": "user,item\nu1,i1\n"},
    ),
    Mistake(
        "a comparison with what is nowhere",
        ("compare", "models:/sealr/1", "models:/sealr/1", "--next", "none.csv"),
        "none.csv does not exist",
    ),
    Mistake(
        "a comparison with a version that is not there",
        ("compare", "models:/sealr/1", "models:/sealr/7", "--next", "t.csv"),
        "sealr has no version 7",
        {"t.csv": "user,item\nu1,i1\n"},
        model=True,
    ),
    Mistake(
        "a comparison without items",
        ("compare", "models:/sealr/1", "models:/sealr/1", "--next", "t.csv"),
        "item",
        {"t.csv": "user,product\nu1,i1\n"},
        model=True,
    ),
]
REQUESTS: list[tuple[str, str | dict, str]] = [
    ("no JSON", "{", "JSON"),
    ("no records", {"records": [{"user": "u1"}]}, "dataframe_records"),
    ("a misspelt field", {"dataframe_records": [{"usr": "u1"}]}, "did you mean user?"),
    ("a misspelt parameter", {"dataframe_records": [{"user": "u1"}], "params": {"topk": 5}}, "did you mean top_k?"),
    ("param for params", {"dataframe_records": [{"user": "u1"}], "param": {"top_k": 5}}, "did you mean params?"),
    (
        "no item asked for",
        {"dataframe_records": [{"user": "u1"}], "params": {"top_k": 0}},
        "top_k must be a whole number",
    ),
    ("many for a number", {"dataframe_records": [{"user": "u1"}], "params": {"top_k": "many"}}, "top_k"),
    ("a history that is no list", {"dataframe_records": [{"history": "i1"}]}, "history must be a list"),
    ("a history without an item", {"dataframe_records": [{"history": [{"text": "hm"}]}]}, "each with an item"),
    ("a misspelt key", {"dataframe_records": [{"history": [{"item": "i1", "txt": "hm"}]}]}, "did you mean text?"),
    ("seven stars", {"dataframe_records": [{"history": [{"item": "i1", "rating": 7}]}]}, "from 1 to 5"),
    ("a feeling of 7", {"dataframe_records": [{"history": [{"item": "i1", "sentiment": 7}]}]}, "from -2"),
    ("too many records", {"dataframe_records": [{"user": "u1"}] * 65}, "at most 64 are answered"),
]
