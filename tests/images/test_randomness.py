"""randomness.py: numbers that depend on key and counters alone, uniform and unrelated, the same on every machine."""
import numpy as np
import pytest
import torch

from hybridrepair.images.randomness import generator, key, uniform


def test_one_counter_gives_the_published_sequence_of_splitmix64():
    # the first outputs of its authors' C code for the seed 1234567
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert uniform(1234567, torch.arange(4)).tolist() == [(value >> 11) / 2 ** 53 for value in published]


def test_known_numbers_stay_as_they_are():
    assert (key(10, "views"), key(10, "views", 3)) == (17411281189656320759, 6627094048450474211)
    numbers = uniform(key(10, "views"), torch.arange(2)[:, None], torch.arange(3))
    assert numbers.tolist() == [[0.5992875350078015, 0.4001410066986095, 0.22887832686534526],
                                [0.2493842044507173, 0.9887564362143267, 0.3584907745872312]]
    assert generator(key(10, "views")).integers(1000, size=4).tolist() == [381, 857, 400, 640]


def test_numbers_do_not_depend_on_how_the_counters_are_batched():
    image, view = torch.arange(20), torch.arange(7)
    whole = uniform(5, image[:, None], view)
    assert whole.shape == (20, 7) and whole.dtype == torch.float64
    assert torch.cat([uniform(5, part[:, None], view) for part in image.split(3)]).equal(whole)
    assert uniform(5, image[:, None].flip(0), view).equal(whole.flip(0))
    assert uniform(5, image[:, None], view[2:4]).equal(whole[:, 2:4])
    assert uniform(5, torch.tensor(13), torch.tensor(4)) == whole[13, 4]


def test_numbers_are_uniform_in_the_half_open_unit_interval():
    numbers = uniform(key(0, "test"), torch.arange(1000)[:, None], torch.arange(100)).flatten().numpy()
    assert 0 <= numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert counts == pytest.approx(np.full(20, 5000), abs=5 * 5000 ** .5)


def test_numbers_of_neighbouring_counters_keys_and_seeds_are_uncorrelated():
    image = torch.arange(100_000)
    streams = [uniform(key(0, "a"), image, torch.tensor(0)), uniform(key(0, "a"), image, torch.tensor(1)),
               uniform(key(0, "a"), image + 1, torch.tensor(0)), uniform(key(0, "b"), image, torch.tensor(0)),
               uniform(key(1, "a"), image, torch.tensor(0)), uniform(key(0, "a", 1), image, torch.tensor(0))]
    correlation = np.corrcoef(torch.stack(streams))
    assert np.abs(correlation - np.eye(len(streams))).max() < 5 / len(image) ** .5


def test_counters_are_not_interchangeable():
    a, b = torch.arange(10)[:, None], torch.arange(10)
    numbers = uniform(3, a, b)
    assert len(numbers.unique()) == 100  # (i, j) and (j, i) differ, among others


def test_keys_differ_by_seed_purpose_and_counters_and_fit_64_bits():
    keys = [key(seed, purpose, *more) for seed in (0, 1, 2 ** 40) for purpose in ("a", "b", "ab")
            for more in ((), (0,), (1,), (0, 0), (1, 0), (0, 1))]
    assert len(set(keys)) == len(keys) and all(0 <= each < 2 ** 64 for each in keys)
    assert all(0 <= number < 1 for each in keys for number in uniform(each, torch.arange(3)).tolist())


def test_generators_of_one_key_repeat_and_those_of_two_differ():
    one, again, other = (generator(key(seed, "pick")).permutation(50) for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).any()
