"""A repository is scanned whole: every model or what is wrong with it, in order, and nothing outside the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from symphony.config import ModelConfig
from symphony.errors import ConfigError
from symphony.execution import repository
from symphony.execution.repository import CONFIG_BYTES_MAX, Repository, read_model_config

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"


def write_model(root: Path, folder: str, name: str | None = None, version: str = "1") -> Path:
    """Write an emulated model into root/folder and return that folder."""
    path = root / folder
    path.mkdir(parents=True)
    (path / "model.toml").write_text(
        f'name = "{name or folder}"\nversion = "{version}"\nslo_ms = 50\nmax_batch_size = 4\nformat = "emulated"\n'
        '[emulated]\nalpha_ms = 1\nbeta_ms = 1\n[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = []\n'
        '[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = []\n'
    )
    return path


def models(root: Path) -> list[tuple[str, str]]:
    """Return name and folder of the sound models found."""
    return [(one[0].name, one[1].name) for one in Repository(root).scan() if isinstance(one[0], ModelConfig)]


def faults(root: Path) -> list[tuple[str, str]]:
    """Return folder and message of the faulty ones."""
    return [(one[0].name, str(one[1])) for one in Repository(root).scan() if isinstance(one[1], ConfigError)]


def test_models_come_sorted_by_folder(tmp_path: Path) -> None:
    """Whatever order the file system gives; the model's name may differ from its folder's."""
    for folder in ("c", "a", "b"):
        write_model(tmp_path, folder, name=f"model-{folder}")
    assert models(tmp_path) == [("model-a", "a"), ("model-b", "b"), ("model-c", "c")]
    assert faults(tmp_path) == []


def test_what_has_no_model_toml_is_no_model(tmp_path: Path) -> None:
    """Files and folders of other things may lie about."""
    write_model(tmp_path, "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert models(tmp_path) == [("a", "a")]
    assert faults(tmp_path) == []


def test_empty_folder_has_no_models(tmp_path: Path) -> None:
    """Which is no fault."""
    assert Repository(tmp_path).scan() == []


def test_examples_are_sound() -> None:
    """Those that `make serve` serves."""
    assert models(EXAMPLES) == [
        ("digits", "digits"),
        ("digits_export", "digits_export"),
        ("digits_png", "digits_png"),
        ("minilm", "minilm"),
    ]


def test_each_scan_reads_anew(tmp_path: Path) -> None:
    """A model that came later is found."""
    root = Repository(tmp_path)
    assert root.scan() == []
    write_model(tmp_path, "a")
    assert len(root.scan()) == 1


def test_faulty_model_does_not_hide_the_others(tmp_path: Path) -> None:
    """Its folder comes with the file, the key and the remedy."""
    for folder in ("a", "b", "c"):
        write_model(tmp_path, folder)
    file = tmp_path / "b" / "model.toml"
    file.write_text(file.read_text().replace("slo_ms = 50", "slo_ms = 0"))
    assert [name for name, _ in models(tmp_path)] == ["a", "c"]
    assert faults(tmp_path) == [("b", f"{file}: key 'slo_ms' is 0: it must be at least 1; raise it")]


def test_same_name_and_version_is_refused_with_both_places(tmp_path: Path) -> None:
    """The later folder is at fault; another version is none."""
    write_model(tmp_path, "a", name="same")
    write_model(tmp_path, "b", name="same")
    write_model(tmp_path, "c", name="same", version="2")
    assert models(tmp_path) == [("same", "a"), ("same", "c")]
    ((folder, message),) = faults(tmp_path)
    assert folder == "b"
    assert str(tmp_path / "a" / "model.toml") in message and str(tmp_path / "b" / "model.toml") in message


def test_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    """At it yes, beyond it no."""
    file = write_model(tmp_path, "a") / "model.toml"
    text = file.read_text()
    file.write_text(text + "#" * (CONFIG_BYTES_MAX - len(text)))
    assert models(tmp_path) == [("a", "a")]
    file.write_text(text + "#" * (CONFIG_BYTES_MAX - len(text) + 1))
    assert f"{CONFIG_BYTES_MAX + 1} bytes, above {CONFIG_BYTES_MAX}" in faults(tmp_path)[0][1]


def test_number_of_models_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit yes, beyond it no."""
    monkeypatch.setattr(repository, "FOLDER_COUNT_MAX", 2)
    write_model(tmp_path, "a")
    write_model(tmp_path, "b")
    assert len(models(tmp_path)) == 2
    write_model(tmp_path, "c")
    with pytest.raises(ConfigError, match="has 3 models, above 2; split it"):
        Repository(tmp_path).scan()


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, a folder, a pipe (which must not be waited for)."""
    (write_model(tmp_path, "a") / "model.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "b" / "model.toml").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    os.mkfifo(tmp_path / "c" / "model.toml")
    found = dict(faults(tmp_path))
    assert "must be a readable text file in UTF-8" in found["a"]
    assert "is not a file" in found["b"] and "is not a file" in found["c"]


def test_folder_that_may_not_be_read_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a fault of its own, not of the repository."""
    write_model(tmp_path, "a")
    write_model(tmp_path, "b")
    lstat, stat = Path.lstat, Path.stat

    def refuse(path: Path, original: object, **options: bool) -> os.stat_result:
        if path == tmp_path / "b" / "model.toml":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, **options)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(Path, "lstat", lambda path: refuse(path, lstat))
    monkeypatch.setattr(Path, "stat", lambda path, **options: refuse(path, stat, **options))
    assert models(tmp_path) == [("a", "a")]
    assert "Permission denied" in faults(tmp_path)[0][1]


def test_root_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Missing, or a file."""
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ConfigError, match=r"cannot be read: .*; name a folder of model folders"):
            Repository(root).scan()


def test_link_out_of_the_repository_is_refused(tmp_path: Path) -> None:
    """Of the folder or of the file."""
    outside = write_model(tmp_path / "outside", "model")
    root = tmp_path / "root"
    (root / "b").mkdir(parents=True)
    (root / "a").symlink_to(outside)
    (root / "b" / "model.toml").symlink_to(outside / "model.toml")
    assert models(root) == []
    assert [folder for folder, _ in faults(root)] == ["a", "b"]
    assert all(f"leads out of {root}; copy the model into it" in message for _, message in faults(root))


def test_link_within_the_repository_is_followed(tmp_path: Path) -> None:
    """Also when the repository itself is reached by a link."""
    write_model(tmp_path / "root" / "stored", "x", name="m")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "root" / "stored" / "x")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert models(tmp_path / "root") == [("m", "a")]
    assert models(tmp_path / "link") == [("m", "a")]


def test_links_that_lead_nowhere_are_faults(tmp_path: Path) -> None:
    """Broken, or in a circle: somebody meant a model to be there."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.toml").symlink_to(tmp_path / "a" / "missing.toml")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.toml").symlink_to(tmp_path / "b" / "model.toml")
    assert [folder for folder, _ in faults(tmp_path)] == ["a", "b"]


def test_one_model_is_read_without_a_repository(tmp_path: Path) -> None:
    """As `symphony profile` does."""
    assert read_model_config(write_model(tmp_path, "a"), tmp_path / "a").name == "a"
    with pytest.raises(ConfigError, match=r"model\.toml is not a file; a model's folder needs one"):
        read_model_config(tmp_path, tmp_path)
