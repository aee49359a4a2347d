"""Registering a version and moving the aliases ``challenger`` and ``champion``.

``python -m sealr.registry.promote NAME VERSION --reason "..."`` makes a version champion by hand;
``python -m sealr.registry.promote rollback NAME --reason "..."`` brings the previous champion back.

The alias says who is champion. The tag HISTORY of the registered model says who was, oldest first, the champion last: a
promotion appends, a rollback takes the last one off, so rolling back twice goes two champions back. The history is
written before the alias moves and cut back to the alias when it is read, so a kill in between changes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sealr import tracking
from sealr.redact import redact
from sealr.registry.gate import HELD, PROMOTED, REFUSED, Verdict

CHAMPION, CHALLENGER = "champion", "challenger"
METRIC = "sealr.valid_ndcg_at_10"  # tag of a version: validation NDCG@10 of the list it serves, full protocol
DATA = "sealr.data"  # tag of a version: name of its data set
CONTENT = "sealr.content"  # tag of a version: digest of everything that went into it
DIGEST = "sealr.digest."  # tags of a version: the digest of what each stage made, such as sealr.digest.reviews
STAGE = "sealr.stage."  # tags of a version: the key of each stage's folder, such as sealr.stage.retrieve
GATE = "sealr.gate."  # tags of a version: decision, reason, against, at, and the figures of the comparison
ROLLED_BACK = "sealr.rolled_back"  # tag of a version that was taken back, or replaced, by hand: why; it is promoted only by hand again
TRIES = 3  # comparisons with a champion that others change meanwhile
HISTORY = "sealr.champions"  # tag of the registered model
HISTORY_LENGTH = 100  # champions remembered


class PromotionError(ValueError):
    """What was asked for cannot be done; the message says why."""


@dataclass(frozen=True)
class Registration:
    name: str
    version: str
    aliases: tuple[str, ...]
    reason: str  # why it is champion, or why it is not


def find(name: str, content: str) -> str | None:
    """The newest version made of the same content, if there is one: registering it again would only repeat it."""
    versions = [v for v in MlflowClient().search_model_versions(f"name = '{name}'") if v.tags.get(CONTENT) == content]
    return str(max(int(v.version) for v in versions)) if versions else None


def create(
    name: str, model_uri: str, run_id: str, tags: dict[str, str], description: str = "", model_id: str | None = None
) -> str:
    """A new version of the registered model, which is made when it does not exist; aliases are given by `assign_aliases`.

    model_id: of the logged model that ``model_uri`` names; a tracking server takes ``models:/`` URIs only with it.
    """
    client = MlflowClient()
    try:
        client.create_registered_model(name, description="SEALR: retriever, emotion labeller and LoRA re-ranker as one model.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name, source=model_uri, run_id=run_id, tags=tags, description=description, model_id=model_id
    )
    return str(version.version)


def champion(name: str) -> str | None:
    """The champion's version; None when there is no such model or no champion."""
    try:
        return _champion(MlflowClient().get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def uri(name: str, version: str) -> str:
    return f"models:/{name}/{version}"


def assign_aliases(name: str, version: str, judge: Callable[[str], Verdict]) -> Registration:
    """Gives a version the aliases it has earned. Safe to repeat: a job that was killed before this is mended by the next.

    judge: asked with the champion's URI, when there is another champion of the same data set.
    """
    client = MlflowClient()
    challenger = client.get_registered_model(name).aliases.get(CHALLENGER, 0)
    if int(version) >= int(challenger):
        client.set_registered_model_alias(name, CHALLENGER, version)
    for _ in range(TRIES):
        tags, now = dict(client.get_model_version(name, version).tags), champion(name)
        if now == version:
            return _registration(name, version, "it was champion already")
        if ROLLED_BACK in tags:
            return _registration(name, version, f"it was rolled back ({tags[ROLLED_BACK]}) and comes back only by hand")
        if tags.get(GATE + "decision") == REFUSED and tags.get(GATE + "against") == now:
            return _registration(name, version, tags[GATE + "reason"])
        verdict = Verdict(PROMOTED, "there was no champion") if now is None else _judged(name, tags, now, judge)
        rolled_back = ROLLED_BACK in client.get_model_version(name, version).tags
        if champion(name) == now and not rolled_back:  # a comparison takes minutes: another job or a hand may have been faster
            break
    else:
        verdict = Verdict(HELD, f"the champion changed {TRIES} times while it was being compared with")
    _record(name, version, now, verdict)
    if verdict.decision == PROMOTED:
        _set_champion(name, version)
    return _registration(name, version, verdict.reason)


def promote_manually(name: str, version: str, reason: str) -> str | None:
    """Makes a version champion without a comparison. Returns the champion before, which comes back only by hand. Raises PromotionError."""
    client = MlflowClient()
    tags = dict(client.get_model_version(name, version).tags)
    now = champion(name)
    if now == version:
        raise PromotionError(f"version {version} of {name} is champion already")
    _record(name, version, now, Verdict(PROMOTED, f"by hand: {_reason(reason)}"))
    if ROLLED_BACK in tags:
        client.delete_model_version_tag(name, version, ROLLED_BACK)
    if now is not None:  # or the next night's run would compare again and undo this
        client.set_model_version_tag(name, now, ROLLED_BACK, f"version {version} took its place by hand: {_reason(reason)}")
    _set_champion(name, version)
    return now


def rollback(name: str, reason: str) -> tuple[str, str]:
    """Restores the champion before the present one; returns (its version, the version that was taken back).

    Versions that were deleted meanwhile are passed over. Raises PromotionError when nobody is left to go back to.
    """
    client = MlflowClient()
    now, history, reason = champion(name), _history(name), _reason(reason)
    there = {str(v.version) for v in client.search_model_versions(f"name = '{name}'")}
    earlier = [v for v in history[:-1] if v in there and v != now]
    if now is None or not earlier:
        raise PromotionError(f"{name} has no earlier champion to go back to")
    client.set_model_version_tag(name, now, ROLLED_BACK, reason)
    client.set_registered_model_alias(name, CHAMPION, earlier[-1])
    if ROLLED_BACK in client.get_model_version(name, earlier[-1]).tags:  # it had been replaced by hand
        client.delete_model_version_tag(name, earlier[-1], ROLLED_BACK)
    last = len(history) - 1 - history[::-1].index(earlier[-1])
    client.set_registered_model_tag(name, HISTORY, ",".join(history[: last + 1]))
    client.set_model_version_tag(
        name, earlier[-1], GATE + "restored", f"{_now()}: version {now} was rolled back: {reason}"[:5000]
    )
    return earlier[-1], now


def stage_keys() -> set[str]:
    """Keys of the stage folders that registered versions were made from."""
    versions = MlflowClient().search_model_versions()
    return {value for v in versions for tag, value in v.tags.items() if tag.startswith(STAGE)}


def _judged(name: str, tags: dict[str, str], now: str, judge: Callable[[str], Verdict]) -> Verdict:
    data = MlflowClient().get_model_version(name, now).tags.get(DATA)
    if data != tags[DATA]:
        hint = "promote by hand with python -m sealr.registry.promote, or register under another registry.name"
        return Verdict(HELD, f"the champion serves another data set ({data}), so the two cannot be compared: {hint}")
    return judge(uri(name, now))


def _record(name: str, version: str, against: str | None, verdict: Verdict) -> None:
    """Tags the version with the decision. The decision comes last: it says that the others are complete."""
    values = {name: f"{value:.6g}" for name, value in verdict.figures.items()}
    values |= {"against": against or "", "at": _now(), "reason": verdict.reason[:5000], "decision": verdict.decision}
    client = MlflowClient()
    for key, value in values.items():
        client.set_model_version_tag(name, version, GATE + key, value)


def _set_champion(name: str, version: str) -> None:
    client = MlflowClient()
    history = [*_history(name), version][-HISTORY_LENGTH:]
    client.set_registered_model_tag(name, HISTORY, ",".join(history))
    client.set_registered_model_alias(name, CHAMPION, version)


def _history(name: str) -> list[str]:
    """Champions so far, oldest first; the last is the present one, whatever a kill or a hand in the UI did to the tag."""
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


def _reason(reason: str) -> str:
    if not reason.strip():
        raise PromotionError("a reason is needed: --reason '...'")
    return " ".join(reason.split())[:1000]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sealr.registry.promote",
        description="Makes a version champion by hand, or brings the previous champion back.",
    )
    parser.add_argument("name", help="registered model, such as sealr; or the word rollback")
    parser.add_argument("version", help="version number; after rollback: the registered model")
    parser.add_argument("--reason", required=True, help="why; it becomes a tag of the version")
    arguments = parser.parse_args(argv)
    tracking.setup()
    try:
        if arguments.name == "rollback":
            version, before = rollback(arguments.version, arguments.reason)
            name, said = arguments.version, f"again, version {before} was taken back"
        else:
            name, version = arguments.name, arguments.version
            before = promote_manually(name, version, arguments.reason)
            said = f"now, after {f'version {before}' if before else 'none'}"
    except (PromotionError, MlflowException) as error:
        raise SystemExit(redact(f"error: {getattr(error, 'message', error)}")) from None
    print(f"models:/{name}@{CHAMPION} is version {version} {said}")


if __name__ == "__main__":
    main()
