"""Registering a version and moving the aliases ``challenger`` and ``champion``."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

CHAMPION, CHALLENGER = "champion", "challenger"
METRIC = "sealr.valid_ndcg_at_10"  # tag of a version: validation NDCG@10 of the fused list, full protocol
DATA = "sealr.data"  # tag of a version: name of its data set
VALIDATION = "sealr.validation"  # tag of a version: digest of the candidates it was validated on
CONTENT = "sealr.content"  # tag of a version: digest of everything that went into it


@dataclass(frozen=True)
class Registration:
    name: str
    version: str
    aliases: tuple[str, ...]
    reason: str  # why it is champion, or why it is not


def register(name: str, model_uri: str, run_id: str, tags: dict[str, str], description: str = "") -> Registration:
    """Makes a new version of the registered model, its challenger, and its champion when it earned that."""
    client = MlflowClient()
    try:
        client.create_registered_model(name, description="SEALR: retriever, emotion labeller and LoRA re-ranker as one model.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(name, source=model_uri, run_id=run_id, tags=tags, description=description).version
    client.set_registered_model_alias(name, CHALLENGER, version)
    wins, reason = decide(tags, champion_tags(client, name))
    if wins:
        client.set_registered_model_alias(name, CHAMPION, version)
    return Registration(name, str(version), (CHALLENGER, CHAMPION) if wins else (CHALLENGER,), reason)


def registered(name: str, content: str) -> Registration | None:
    """The newest version made of the same content, if there is one: registering it again would only repeat it."""
    client = MlflowClient()
    versions = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(CONTENT) == content]
    if not versions:
        return None
    version = client.get_model_version(name, max(versions, key=lambda v: int(v.version)).version)
    aliases = tuple(sorted(version.aliases, key=lambda a: (a == CHAMPION, a)))
    return Registration(name, str(version.version), aliases, "unchanged, so no new version was made")


def champion_tags(client: MlflowClient, name: str) -> dict[str, str] | None:
    """Tags of the present champion; None when there is none."""
    try:
        return dict(client.get_model_version_by_alias(name, CHAMPION).tags)
    except MlflowException:
        return None


def decide(challenger: dict[str, str], champion: dict[str, str] | None) -> tuple[bool, str]:
    """Whether the challenger becomes champion, and a sentence that says why. Validation figures only."""
    if champion is None:
        return True, "there was no champion"
    if champion.get(DATA) != challenger[DATA]:
        return False, f"the champion serves another data set ({champion.get(DATA)}), so the two cannot be compared"
    new, old = float(challenger[METRIC]), float(champion.get(METRIC, "-inf"))
    same = "" if champion.get(VALIDATION) == challenger[VALIDATION] else " (measured on different validation lists)"
    if new > old:
        return True, f"validation NDCG@10 {new:.4f} beats the champion's {old:.4f}{same}"
    return False, f"validation NDCG@10 {new:.4f} does not beat the champion's {old:.4f}{same}"
