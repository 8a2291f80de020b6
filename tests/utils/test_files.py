"""Configuration files as people write them, and files that are whole or absent."""

import errno
import os

import pytest

from utils.errors import UserError
from utils.files import check_json_target, format_config, inside, parse_json, publish_folder, read_config, write_atomic


def test_comments_and_trailing_commas_are_read():
    text = '{ // one\n "a": 1, /* two\n lines */ "b": [1, 2,], "url": "http://x/*no*/,}", "q": "\\"//\\"",\n}'
    assert parse_json(text) == {"a": 1, "b": [1, 2], "url": "http://x/*no*/,}", "q": '"//"'}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n  "b": }', ["line 2", "column 8"]),
        ('/* a\n comment */ {"a" 1}', ["line 2"]),
        ('{"a": 1, "a": 2}', ["'a'", "twice"]),
        ('{"a": NaN}', ["NaN"]),
        ("[1, 2]", ["list", "object"]),
        ("[" * 100_000, ["nested"]),
        ("", ["line 1"]),
    ],
)
def test_a_broken_file_is_one_line_with_the_place(tmp_path, text, words):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_config(path)
    line = str(error.value)
    assert line.startswith(str(path)) and "\n" not in line
    assert all(word in line for word in words), line


def test_binary_missing_and_bad_toml(tmp_path):
    (tmp_path / "b.json").write_bytes(b"\x80\x81PNG")
    (tmp_path / "b.toml").write_text("a = = 1")
    for name, word in [("b.json", "UTF-8"), ("b.toml", "TOML"), ("none.json", "No such file")]:
        with pytest.raises(UserError, match=word):
            read_config(tmp_path / name)


def test_both_formats_hold_the_same_configuration(tmp_path):
    content = {"model": {"max_disp": 192, "pretrained": None}, "data": {"datasets": [{"path": "./data", "weight": 1.0}]}}
    for suffix in (".json", ".toml"):
        (tmp_path / f"c{suffix}").write_text(format_config(content, suffix))
        assert read_config(tmp_path / f"c{suffix}") == content
    assert 'pretrained = "null"' in (tmp_path / "c.toml").read_text()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "latest.pt"
    write_atomic(path, b"old")

    def explode(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, explode)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["latest.pt"]


@pytest.mark.parametrize("relative", ["../secret", "a/../../secret", "/etc/passwd", ".."])
def test_a_path_that_leads_out_of_its_folder_is_refused(tmp_path, relative):
    with pytest.raises(UserError) as error:
        inside(tmp_path, relative, "list.txt: line 3")
    assert str(error.value).startswith(f"list.txt: line 3: the path {relative!r} leads out of {tmp_path}")


@pytest.mark.parametrize(
    ("relative", "found"), [("a/b.png", "a/b.png"), ("./a//b.png", "a/b.png"), ("a/../b.png", "b.png"), ("..a", "..a")]
)
def test_a_path_below_its_folder_is_joined(tmp_path, relative, found):
    assert inside(tmp_path, relative, "list.txt") == tmp_path / found


def test_links_below_the_folder_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scenes").symlink_to(tmp_path / "elsewhere")
    assert inside(tmp_path / "data", "scenes/0.png", "list.txt") == tmp_path / "data" / "scenes" / "0.png"


def test_a_path_with_a_zero_byte_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"list\.txt: 'a\\x00b' holds a zero byte"):
        inside(tmp_path, "a\0b", "list.txt")


def test_results_go_into_a_json_file(tmp_path):
    (tmp_path / "b.json").mkdir()
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "b.json", "is a folder"), (tmp_path / "b.png", r"does not end in \.json")):
        with pytest.raises(UserError, match=rf"--output {path}: {said}; expected a file such as .*\.json"):
            check_json_target(path)
    check_json_target(tmp_path / "new.json")


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        write_atomic(tmp_path / "r.json", full)
    assert error.value.filename == str(tmp_path / "r.json")


def test_a_folder_is_published_whole_or_not_at_all(tmp_path):
    def fail():
        with publish_folder(tmp_path / "deep" / "out") as folder:
            (folder / "half").write_text("")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert not list((tmp_path / "deep").iterdir())
    (tmp_path / "plain").mkdir()
    with publish_folder(tmp_path / "deep" / "out") as folder:
        (folder / "whole").write_text("")
    assert (tmp_path / "deep" / "out" / "whole").exists() and len(list((tmp_path / "deep").iterdir())) == 1
    assert (tmp_path / "deep" / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
