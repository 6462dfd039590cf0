"""Files and folders are whole or absent, and nobody's work is overwritten."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from saferl.errors import RunFolderError
from saferl.storage import (
    TEMPORARY,
    atomic_folder,
    prepare_output,
    read_json,
    remove_leftovers,
    sha256,
    write_json,
    write_text,
)


def tree(folder):
    """Every path below ``folder`` with the content of files."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refuse(*_args, **_kwargs):
    raise PermissionError(13, "Permission denied")


def test_the_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def test_written_text_is_read_back_exactly_and_the_parents_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "λ\n1\r\n")
    assert path.read_bytes() == "λ\n1\r\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_written_json_is_read_back(tmp_path):
    data = {"budget": 0.1, "names": ["a", "ü"], "none": None}
    write_json(tmp_path / "x.json", data)
    assert read_json(tmp_path / "x.json", what="x") == data


def test_writing_replaces_an_older_file(tmp_path):
    for text in ("old and longer", "new"):
        write_text(tmp_path / "file", text)
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, step):
    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "file", "new")
    assert tree(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("data", [{"loss": float("nan")}, {"loss": float("inf")}, {"x": object()}])
def test_data_that_is_not_json_keeps_the_old_file(tmp_path, data):
    write_text(tmp_path / "file", "old")
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file", data)
    assert tree(tmp_path) == {"file": b"old"}


def test_text_that_cannot_be_encoded_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file", "\ud800")
    assert tree(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "is missing"),
        (b'{"cut": ', "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path, content, text):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunFolderError, match=f"run.json of a run folder {text}") as caught:
        read_json(path, what="run.json of a run folder")
    assert str(path) in str(caught.value)


def test_reading_a_folder_or_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "run.json"):
        with pytest.raises(RunFolderError, match="cannot be read"):
            read_json(path, what="run.json")


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "runs" / "artefact"
    with atomic_folder(target) as folder:
        (folder / "weights").write_text("w")
        assert not target.exists()
        assert folder.parent == target.parent
    assert tree(tmp_path / "runs") == {"artefact": None, "artefact/weights": b"w"}
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_the_block_leaves_nothing(tmp_path, error):
    def fill():
        with atomic_folder(tmp_path / "artefact") as folder:
            (folder / "weights").write_text("half")
            raise error

    with pytest.raises(error):
        fill()
    assert tree(tmp_path) == {}


def make_old(folder):
    folder.mkdir()
    (folder / "weights").write_text("old")
    (folder / "extra").write_text("old")


def test_a_complete_folder_replaces_the_whole_old_one(tmp_path):
    make_old(tmp_path / "artefact")
    with atomic_folder(tmp_path / "artefact") as folder:
        (folder / "weights").write_text("new")
        assert (tmp_path / "artefact" / "weights").read_text() == "old"
    assert tree(tmp_path) == {"artefact": None, "artefact/weights": b"new"}


def test_an_error_inside_the_block_keeps_the_old_folder(tmp_path):
    make_old(tmp_path / "artefact")
    before = tree(tmp_path)

    def fill():
        with atomic_folder(tmp_path / "artefact") as folder:
            (folder / "weights").write_text("new")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised above, without text
        fill()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_move_keeps_the_old_folder(tmp_path, monkeypatch, failing):
    make_old(tmp_path / "artefact")
    before = tree(tmp_path)
    moves, replace = [], os.replace

    def fail_once(source, target):
        moves.append(target)
        if len(moves) == failing:
            refuse()
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(PermissionError), atomic_folder(tmp_path / "artefact") as folder:
        (folder / "weights").write_text("new")
    assert tree(tmp_path) == before


def test_a_file_or_a_link_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    before = tree(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(RunFolderError, match="must be a folder, or absent"), atomic_folder(tmp_path / name):
            pass
    assert tree(tmp_path) == before
    assert (tmp_path / "link").is_symlink()


def test_an_output_folder_is_made_with_its_parents_and_is_empty(tmp_path):
    folder = prepare_output(tmp_path / "a" / "b", what="a run")
    assert folder == tmp_path / "a" / "b"
    assert tree(tmp_path) == {"a": None, "a/b": None}


def test_an_empty_folder_may_be_used(tmp_path):
    assert prepare_output(tmp_path, what="a run") == tmp_path
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["run.json", ".hidden", "sub/file"])
def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path, name):
    write_text(tmp_path / name, "work")
    before = tree(tmp_path)
    with pytest.raises(RunFolderError, match=r"of a run must be new or empty; .* which were left alone"):
        prepare_output(tmp_path, what="a run")
    assert tree(tmp_path) == before


def test_a_file_is_refused_as_output_folder_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("work")
    with pytest.raises(RunFolderError, match="must be a folder; got the file"):
        prepare_output(tmp_path / "file", what="a run")
    assert tree(tmp_path) == {"file": b"work"}


@pytest.mark.parametrize("name", ["file/run", "file/a/b", "x" * 300, "new/folders/" + "x" * 300])
def test_a_path_that_cannot_be_made_is_refused_and_leaves_all_as_it_was(tmp_path, name):
    (tmp_path / "file").write_text("work")
    with pytest.raises(RunFolderError, match=r"cannot be written: .* Choose another --out"):
        prepare_output(tmp_path / name, what="a run")
    assert tree(tmp_path) == {"file": b"work"}


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_cannot_be_written_is_refused_and_stays_as_it_was(tmp_path, monkeypatch, exists):
    if exists:
        (tmp_path / "out").mkdir()
    before = tree(tmp_path)
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(RunFolderError, match=r"cannot be written: .*Permission denied"):
        prepare_output(tmp_path / "out", what="a run")
    assert tree(tmp_path) == before


def test_json_on_disk_ends_with_a_newline_and_is_indented(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    text = (tmp_path / "x.json").read_text()
    assert text == '{\n  "a": 1\n}\n'
    assert json.loads(text) == {"a": 1}


def test_a_folder_in_which_a_process_was_killed_before_it_finished_a_file_counts_as_empty(tmp_path):
    (tmp_path / f".run.json.x1{TEMPORARY}").write_text("{")
    (tmp_path / f".artefact.x2{TEMPORARY}").mkdir()
    (tmp_path / f".artefact.x2{TEMPORARY}" / "half").touch()
    assert prepare_output(tmp_path, what="a run") == tmp_path
    assert not list(tmp_path.iterdir())


def test_hidden_files_of_others_are_no_leftovers(tmp_path):
    (tmp_path / ".env.local").write_text("theirs")
    (tmp_path / f".run.json.x1{TEMPORARY}").touch()
    with pytest.raises(RunFolderError, match="must be new or empty"):
        prepare_output(tmp_path, what="a run")
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".env.local"]
