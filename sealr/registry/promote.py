"""Versions of a registered model and their aliases: ``challenger``, the newest, and ``champion``, which serves.

`sealr.registry.gate` decides whether a challenger becomes champion, and the tag TRIED counts how often. `rollback`
restores the previous champion, and `promote_manually` needs no comparison. Tags of a version record its decision; the
tag HISTORY of the registered model lists the champions in order. HISTORY is written before the alias moves and is only
read up to the version that has the alias, so an interruption in between changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from sealr.redact import redact
from sealr.registry.gate import HELD, PROMOTED, REFUSED, Verdict

CHAMPION, CHALLENGER = "champion", "challenger"
# Tags of a version
METRIC = "sealr.valid_ndcg_at_10"  # validation NDCG@10 of the list it serves, full protocol
DATA = "sealr.data"  # name of its data set
CONTENT = "sealr.content"  # digest of everything that went into it
ONE_STAGE = "sealr.stage."  # in versions of 0.2 and older: start of one tag for each key
STAGES = "sealr.stages"  # keys of the stage folders that it was made from, with spaces between
GATE = "sealr.gate."  # decision, reason, against, at, and the figures of the comparison
# How many comparisons a champion has stood; on the registered model: how many popularity has, the first opponent
TRIED = "sealr.tries"
ROLLED_BACK = "sealr.rolled_back"  # why it was rolled back or replaced by hand; the gate does not promote it again
# Tag of the registered model
HISTORY = "sealr.champions"
HISTORY_LENGTH = 100  # champions remembered
ATTEMPTS = 3  # comparisons, if the champion changes meanwhile


class PromotionError(ValueError):
    """The promotion or rollback is impossible; the message says why."""


@dataclass(frozen=True)
class Registration:
    name: str
    version: str
    aliases: tuple[str, ...]
    reason: str  # why it is champion, or why not


def find(name: str, content: str) -> str | None:
    """The newest version made from the same content, which makes another registration unnecessary."""
    versions = [v for v in MlflowClient().search_model_versions(f"name = '{name}'") if v.tags.get(CONTENT) == content]
    return str(max(int(v.version) for v in versions)) if versions else None


def create(
    name: str, model_uri: str, run_id: str, tags: dict[str, str], description: str = "", model_id: str | None = None
) -> str:
    """A new version of the registered model, which is created if it does not exist; `assign_aliases` gives aliases.

    model_id: of the logged model at ``model_uri``; tracking servers accept ``models:/`` URIs only with it.
    """
    client = MlflowClient()
    try:
        about = "SEALR: retriever, emotion labeller and LoRA re-ranker as one model."
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(name, model_uri, run_id, tags, description=description, model_id=model_id)
    if model_id:  # as mlflow.register_model, which takes no description: the logged model's page shows its versions
        versions = json.loads(client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        versions.append({"name": name, "version": made.version})
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(versions)})
    return str(made.version)


def champion(name: str) -> str | None:
    """The champion's version; None if there is no such model or no champion."""
    try:
        return _champion(MlflowClient().get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def uri(name: str, version: str) -> str:
    return f"models:/{name}/{version}"


def assign_aliases(name: str, version: str, judge: Callable[[str | None, int], Verdict]) -> Registration:
    """Assigns the aliases that a version has earned. Idempotent: a rerun repairs an interrupted call.

    judge: called with the champion's URI, or None if there is no champion, and the number of the try against it, unless
    the champion is of another data set.
    """
    client = MlflowClient()
    challenger = client.get_registered_model(name).aliases.get(CHALLENGER, 0)
    if int(version) >= int(challenger):
        client.set_registered_model_alias(name, CHALLENGER, version)
    for _ in range(ATTEMPTS):
        tags, now = dict(client.get_model_version(name, version).tags), champion(name)
        if now == version:
            return _registration(name, version, "it was champion already")
        if ROLLED_BACK in tags:
            why = f"it was rolled back ({tags[ROLLED_BACK]}); the gate does not promote it again, `sealr promote` does"
            return _registration(name, version, why)
        if tags.get(GATE + "decision") == REFUSED and tags.get(GATE + "against") == (now or ""):
            return _registration(name, version, tags[GATE + "reason"])
        verdict = _judged(name, version, tags, now, judge)
        rolled_back = ROLLED_BACK in client.get_model_version(name, version).tags
        if champion(name) == now and not rolled_back:  # a comparison takes minutes: aliases may have moved meanwhile
            break
    else:
        verdict = Verdict(HELD, f"the champion changed {ATTEMPTS} times during the comparison")
    _record(name, version, now, verdict)
    if verdict.decision == PROMOTED:
        _set_champion(name, version)
    return _registration(name, version, verdict.reason)


def promote_manually(name: str, version: str, reason: str) -> str | None:
    """Makes a version champion without a comparison and returns the previous champion. Raises PromotionError.

    The gate does not promote the previous champion again; only `promote_manually` or `rollback` does.
    """
    client, reason = MlflowClient(), _one_line(reason)
    with _errors():
        now = champion(name)
        if now == version:
            raise PromotionError(f"version {version} of {name} is champion already")
        _record(name, version, now, Verdict(PROMOTED, f"by hand: {reason}"))
        _allow(name, version)
        if now is not None:  # or the next night's run would compare again and undo this
            why = f"version {version} took its place by hand: {reason}"
            client.set_model_version_tag(name, now, ROLLED_BACK, why)
        _set_champion(name, version)
        return now


def rollback(name: str, reason: str) -> tuple[str, str]:
    """Restores the previous champion; returns (its version, the version that was rolled back).

    Skips versions that were deleted. Raises PromotionError if no earlier champion is left.
    """
    client, reason = MlflowClient(), _one_line(reason)
    with _errors():
        now, history = champion(name), _history(name)
        existing = {str(v.version) for v in client.search_model_versions(f"name = '{name}'")}
        earlier = [v for v in history[:-1] if v in existing and v != now]
        if now is None or not earlier:
            raise PromotionError(f"{name} has no earlier champion to go back to")
        client.set_model_version_tag(name, now, ROLLED_BACK, reason)
        client.set_registered_model_alias(name, CHAMPION, earlier[-1])
        _allow(name, earlier[-1])  # it may have been replaced by hand
        last = len(history) - 1 - history[::-1].index(earlier[-1])
        client.set_registered_model_tag(name, HISTORY, ",".join(history[: last + 1]))
        restored = f"{_now()}: version {now} was rolled back: {reason}"
        client.set_model_version_tag(name, earlier[-1], GATE + "restored", restored[:5000])
        return earlier[-1], now


def take_over(name: str, old: str, new: str) -> None:
    """Gives a version all that others know of the one that it replaces: aliases, its place in HISTORY, comparisons."""
    client, model = MlflowClient(), MlflowClient().get_registered_model(name)
    if old in (history := _history(name)):
        client.set_registered_model_tag(name, HISTORY, ",".join(new if v == old else v for v in history))
    for alias, version in model.aliases.items():
        if str(version) == old:
            client.set_registered_model_alias(name, alias, new)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(GATE + "against") == old:
            client.set_model_version_tag(name, version.version, GATE + "against", new)


def stage_keys() -> set[str]:
    """Keys of the stage folders that registered versions were made from."""
    versions = MlflowClient().search_model_versions()
    listed = {key for version in versions for key in version.tags.get(STAGES, "").split()}
    return listed | {value for v in versions for tag, value in v.tags.items() if tag.startswith(ONE_STAGE)}


def _judged(
    name: str, version: str, tags: dict[str, str], now: str | None, judge: Callable[[str | None, int], Verdict]
) -> Verdict:
    """The verdict on a version. A comparison that gave figures is a try; the same two compared again are the same."""
    opponent = MlflowClient().get_model_version(name, now) if now else MlflowClient().get_registered_model(name)
    if now and (data := opponent.tags.get(DATA)) != tags[DATA]:
        hint = "promote by hand (sealr promote), or register under another registry.name"
        return Verdict(HELD, f"the champion serves another data set ({data}), so they cannot be compared: {hint}")
    tried = int(opponent.tags.get(TRIED, 0))
    again = tags.get(GATE + "try") if tags.get(GATE + "against") == (now or "") else ""
    verdict = judge(uri(name, now) if now else None, number := int(again or tried + 1))
    if "try" in verdict.figures and number > tried:
        if now:
            MlflowClient().set_model_version_tag(name, now, TRIED, str(number))
        else:
            MlflowClient().set_registered_model_tag(name, TRIED, str(number))
    if now is None and verdict.decision != PROMOTED:
        by_hand = f'sealr promote {version} --name {name} --reason "..."'
        verdict = replace(verdict, reason=f"{verdict.reason}; there is no champion, and `{by_hand}` makes it one")
    return verdict


def _record(name: str, version: str, against: str | None, verdict: Verdict) -> None:
    """Tags the version with the decision. The tag ``decision`` comes last: it marks the others as complete."""
    values = {"try": ""} | {name: f"{value:.6g}" for name, value in verdict.figures.items()}
    values |= {"against": against or "", "at": _now(), "reason": verdict.reason[:5000], "decision": verdict.decision}
    client = MlflowClient()
    for key, value in values.items():
        client.set_model_version_tag(name, version, GATE + key, value)


def _allow(name: str, version: str) -> None:
    """Lets later runs promote a version that was rolled back."""
    client = MlflowClient()
    if ROLLED_BACK in client.get_model_version(name, version).tags:
        client.delete_model_version_tag(name, version, ROLLED_BACK)


def _set_champion(name: str, version: str) -> None:
    client = MlflowClient()
    client.set_registered_model_tag(name, HISTORY, ",".join([*_history(name), version][-HISTORY_LENGTH:]))
    client.set_registered_model_alias(name, CHAMPION, version)


def _history(name: str) -> list[str]:
    """Champions so far, oldest first; the last one has the alias, even after a kill or a change in the UI."""
    model = MlflowClient().get_registered_model(name)
    history, now = [v for v in model.tags.get(HISTORY, "").split(",") if v], _champion(model.aliases)
    if now is None:
        return history
    while history and history[-1] != now and now in history:
        history.pop()
    return history if history and history[-1] == now else [*history, now]


def _champion(aliases: dict[str, object]) -> str | None:
    return str(aliases[CHAMPION]) if CHAMPION in aliases else None


def _registration(name: str, version: str, reason: str) -> Registration:
    held = MlflowClient().get_model_version(name, version).aliases
    return Registration(name, version, tuple(a for a in (CHALLENGER, CHAMPION) if a in held), reason)


@contextmanager
def _errors() -> Iterator[None]:
    """Turns errors of the registry, such as an unknown version, into PromotionError."""
    try:
        yield
    except MlflowException as error:
        raise PromotionError(redact(error.message)) from None


def _one_line(reason: str) -> str:
    if not reason.strip():
        raise PromotionError("a reason is needed: --reason '...'")
    return " ".join(reason.split())[:1000]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
