"""Registering a version and moving the aliases ``challenger`` and ``champion``.

``python -m sealr.registry.promote NAME VERSION`` makes a version champion by hand.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

CHAMPION, CHALLENGER = "champion", "challenger"
METRIC = "sealr.valid_ndcg_at_10"  # tag of a version: validation NDCG@10 of the list it serves, full protocol
DATA = "sealr.data"  # tag of a version: name of its data set
VALIDATION = "sealr.validation"  # tag of a version: digest of the users and reviews that METRIC was measured on
CONTENT = "sealr.content"  # tag of a version: digest of everything that went into it


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


def create(name: str, model_uri: str, run_id: str, tags: dict[str, str], description: str = "") -> str:
    """A new version of the registered model, which is made when it does not exist; aliases are given by `settle`."""
    client = MlflowClient()
    try:
        client.create_registered_model(name, description="SEALR: retriever, emotion labeller and LoRA re-ranker as one model.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.create_model_version(name, source=model_uri, run_id=run_id, tags=tags, description=description).version)


def settle(name: str, version: str) -> Registration:
    """Gives a version the aliases it has earned. Safe to repeat: a job that was killed before this is mended by the next."""
    client = MlflowClient()
    tags = dict(client.get_model_version(name, version).tags)
    aliases = {alias: str(v) for alias, v in client.get_registered_model(name).aliases.items()}
    if int(version) >= int(aliases.get(CHALLENGER, 0)):
        client.set_registered_model_alias(name, CHALLENGER, version)
    if aliases.get(CHAMPION) == version:
        wins, reason = True, "it was champion already"
    else:
        champion = dict(client.get_model_version(name, aliases[CHAMPION]).tags) if CHAMPION in aliases else None
        wins, reason = decide(tags, champion)
    if wins:
        client.set_registered_model_alias(name, CHAMPION, version)
    held = client.get_model_version(name, version).aliases
    return Registration(name, version, tuple(a for a in (CHALLENGER, CHAMPION) if a in held), reason)


def decide(challenger: dict[str, str], champion: dict[str, str] | None) -> tuple[bool, str]:
    """Whether the challenger becomes champion, and a sentence that says why. Validation figures of the same users only."""
    if champion is None:
        return True, "there was no champion"
    by_hand = "the two cannot be compared; promote by hand with python -m sealr.registry.promote"
    if champion.get(DATA) != challenger[DATA]:
        return False, f"the champion serves another data set ({champion.get(DATA)}), so {by_hand}"
    if champion.get(VALIDATION) != challenger[VALIDATION]:
        return False, f"the champion was validated on other users or reviews, so {by_hand}"
    new, old = float(challenger[METRIC]), float(champion[METRIC])
    return new > old, f"validation NDCG@10 {new:.4f} {'beats' if new > old else 'does not beat'} the champion's {old:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sealr.registry.promote", description="Makes a version of a registered model champion."
    )
    parser.add_argument("name", help="registered model, such as sealr")
    parser.add_argument("version", help="version number")
    arguments = parser.parse_args()
    try:
        MlflowClient().set_registered_model_alias(arguments.name, CHAMPION, arguments.version)
    except MlflowException as error:
        raise SystemExit(f"error: {error.message}") from None
    print(f"models:/{arguments.name}@{CHAMPION} is version {arguments.version} now")


if __name__ == "__main__":
    main()
