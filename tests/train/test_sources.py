"""Which samples of a data set take part: lists, parts, held-back shares; the same choice whatever else is there."""

import numpy as np
import pytest

from train.config import DataConfig, DatasetEntry, RunConfig
from train.datasets.cache import Cached
from train.sources import build_sources, hold_back, open_sources, read_list
from utils.errors import UserError

KEYS = [f"scene_{i}" for i in range(400)]
LOSS = {"stereo": {"epe": {"function": "epe_loss"}}}


def entry(name="a", length=100, **options):
    return {"name": name, "type": "synthetic", "params": {"size": (96, 64), "length": length}, **options}


def data(*entries, **options):
    return DataConfig(datasets=list(entries), image_sizes=[(64, 32)], **options)


def keys(source):
    return {source.dataset.key(int(i)) for i in source.indices}


def sources(*entries, fraction=0.0, part="train", **options):
    config = data(*entries, **options)
    return build_sources(config.datasets, config, "data.datasets", fraction, part)


def test_held_back_samples_do_not_change_when_others_are_added():
    rest, held = hold_back(KEYS, 0.1)
    assert sorted([*rest, *held]) == list(range(400)) and 20 < len(held) < 60
    more = KEYS[:200] + [f"new_{i}" for i in range(500)] + KEYS[200:]
    _, held_of_more = hold_back(more, 0.1)
    assert {KEYS[i] for i in held} == {more[i] for i in held_of_more} & set(KEYS)
    assert len(hold_back(KEYS[:10], 1e-9)[1]) == 1
    assert len(hold_back(KEYS[:9], 0.5)[1]) == 0
    assert len(hold_back(KEYS, 0.0)[1]) == 0


def test_sources_take_the_common_augmentation_or_their_own():
    kept, held = sources(entry(), entry("b", image_augmentation=[]), fraction=0.2, image_augmentation=["jittering"])
    assert [len(k.augment.dump()[0]) for k in kept] == [1, 0]
    assert all(h.augment.dump() == ([], False) for h in held)
    assert all(len(k.indices) + len(h.indices) == 100 and not keys(k) & keys(h) for k, h in zip(kept, held, strict=True))


def test_parts_of_one_share_are_complements_wherever_they_are_named():
    (train,), (held,) = sources(entry(), fraction=0.2)
    (named_train,), _ = sources(entry(part="train"), fraction=0.2, part="all")
    (named_val,), (nothing,) = sources(entry(part="val"), fraction=0.2, part="all")
    (everything,), _ = sources(entry(), fraction=0.2, part="all")
    assert keys(train) == keys(named_train) and keys(held) == keys(named_val) and not len(nothing.indices)
    assert keys(train) | keys(held) == keys(everything) and len(everything.indices) == 100


def test_a_share_of_its_own_is_held_back_even_where_nothing_else_is():
    kept, held = sources(entry(val_fraction=0.3), entry("b"), part="all")
    assert 15 < len(held[0].indices) < 50 and not keys(kept[0]) & keys(held[0])
    assert len(kept[1].indices) == 100 and not len(held[1].indices)


def test_a_run_measures_on_what_it_holds_back_or_on_what_the_validation_names():
    def opened(*entries, **validation):
        return open_sources(RunConfig(data=data(*entries), loss=LOSS, validation=validation))

    (kept,), (held,) = opened(entry(), fraction=0.2)
    assert keys(kept) | keys(held) == {f"{i:08d}" for i in range(100)} and not keys(kept) & keys(held)
    (kept,), (other,) = opened(entry(), fraction=0.2, datasets=[entry("other", length=7)])
    assert len(kept.indices) == 100 and len(other.indices) == 7
    (kept,), (held,) = opened(entry(part="train"), fraction=0.2, datasets=[entry("other", part="val")])
    assert keys(kept) | keys(held) == {f"{i:08d}" for i in range(100)} and not keys(kept) & keys(held)
    (kept,), held = opened(entry(), fraction=0.2, every=0)
    assert len(kept.indices) == 100 and held == []


def test_max_samples_chooses_by_the_keys_alone():
    (few,), _ = sources(entry(max_samples=10))
    (more,), _ = sources(entry(max_samples=30))
    assert len(keys(few)) == 10 and len(keys(more)) == 30 and keys(few) < keys(more)
    assert list(few.indices) == sorted(few.indices) and few.indices[-1] > 50, "not the first ones, which are one scene"
    (all_of_them,), _ = sources(entry(max_samples=1000))
    assert len(all_of_them.indices) == 100


def test_steps_are_shares():
    kept, _ = sources(entry(steps=264000), entry("b", steps=18000), entry("c", steps=18000))
    assert [source.weight for source in kept] == [264000, 18000, 18000]


def test_a_list_file_chooses_by_key(tmp_path):
    (tmp_path / "val.txt").write_text("scene_7\n\n  scene_2  \nscene_7\n")
    assert list(read_list("val.txt", tmp_path, KEYS)) == [2, 7]
    assert list(read_list(str(tmp_path / "val.txt"), None, KEYS)) == [2, 7]
    (kept,), (held,) = sources(entry(list_file=str(_numbers(tmp_path, range(50)))), fraction=0.2)
    assert keys(kept) | keys(held) == {f"{i:08d}" for i in range(50)} and len(held.indices) >= 1


def _numbers(folder, numbers):
    path = folder / "numbers.txt"
    path.write_text("\n".join(f"{i:08d}" for i in numbers))
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong.txt", ["wrong.txt, line 2", "'scene_x'", "'scene_0'"]),
        ("empty.txt", ["is empty", "scene_0"]),
        ("absent.txt", ["absent.txt", "No such file"]),
        ("../outside.txt", ["../outside.txt", "leads out of"]),
        ("folder", ["folder", "cannot be read"]),
        ("binary.txt", ["UTF-8"]),
    ],
)
def test_a_list_file_that_names_nothing_is_one_line(tmp_path, name, words):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "wrong.txt").write_text("scene_1\nscene_x\nscene_y")
    (root / "empty.txt").write_text("\n\n")
    (root / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "outside.txt").write_text("scene_1")
    with pytest.raises(UserError) as error:
        read_list(name, root, KEYS)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_an_entry_without_a_sample_is_refused_by_name():
    with pytest.raises(UserError, match=r"data.datasets\[1\] 'b': part 'val' holds none of 9 samples"):
        sources(entry(), entry("b", length=9, part="val"), fraction=0.5)
    with pytest.raises(UserError, match=r"data.datasets\[0\] 'a': params.sizes: unknown key; did you mean 'size'"):
        sources(DatasetEntry(name="a", type="synthetic", params={"sizes": 1}).model_dump())


def test_what_is_measured_is_neither_cached_nor_augmented(tmp_path):
    cache = {"root": str(tmp_path / "cache"), "size": (48, 32)}
    (kept,), (held,) = sources(entry(), fraction=0.2, cache=cache)
    assert isinstance(kept.dataset, Cached) and not isinstance(held.dataset, Cached)
    (own, off), _ = sources(entry(cache={"size": (64, 64)}), entry("b", cache={"enabled": False}), cache=cache)
    assert own.dataset.size == (64, 64) and own.dataset.folder.parent == tmp_path / "cache" and not isinstance(off.dataset, Cached)
    config = data(entry(), cache=cache)
    assert not isinstance(build_sources(config.datasets, config, "data.datasets", cached=False)[0][0].dataset, Cached)
    with pytest.raises(UserError, match=r"data.datasets\[0\].cache.root: not given"):
        sources(entry(cache={"size": (64, 64)}))
    assert np.array_equal(kept.indices, sources(entry(), fraction=0.2)[0][0].indices)
