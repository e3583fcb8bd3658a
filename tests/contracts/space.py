"""What every search space must do. Yours is held to it by

class TestMine(SpaceContract):
    space = MySpace(...)
"""

import json
import random
from collections import Counter
from dataclasses import FrozenInstanceError, fields
from itertools import product
from math import prod
from random import Random
from typing import Any

import pytest
from scipy.stats import chisquare

from search_spaces.space import Space, to_record

COUNTED = 5000  # assignments, up to which all are decoded


class SpaceContract:
    space: Space[Any]

    def text(self, arch: Any) -> str:
        """An architecture as `from_text` reads it."""
        return json.dumps(to_record(arch))

    def archs(self, count: int = 50, seed: int = 1) -> list[Any]:
        space, generator = self.space, Random(seed)
        return [space.smallest(), space.largest(), *(space.sample(generator) for _ in range(count))]

    def test_names_and_options_are_in_a_fixed_order(self) -> None:
        choices = self.space.choices()
        assert list(choices.items()) == list(self.space.choices().items())
        for name, options in choices.items():
            assert isinstance(options, tuple)
            assert options, name
            assert len(set(options)) == len(options), name
            numbers = [option for option in options if not isinstance(option, str)]
            assert numbers == sorted(numbers), name

    def test_encode_is_undone_by_decode(self) -> None:
        for arch in self.archs():
            assert self.space.decode(self.space.encode(arch)) == arch
            assert list(self.space.encode(arch)) == list(self.space.choices())

    def test_active_choices_are_those_that_an_architecture_depends_on(self) -> None:
        space, generator = self.space, Random(2)
        for arch in self.archs(20):
            values, active = space.encode(arch), space.active(arch)
            assert active.items() <= values.items()
            for name, options in space.choices().items():
                others = [option for option in options if option != values[name]]
                if others:
                    other = space.decode({**values, name: generator.choice(others)})
                    assert (other != arch) is (name in active), name

    def test_architectures_are_values(self) -> None:
        for arch in self.archs(10):
            assert {arch, self.space.decode(self.space.encode(arch))} == {arch}
            with pytest.raises(FrozenInstanceError):
                setattr(arch, fields(arch)[0].name, None)

    def test_a_json_record_describes_the_same_architecture(self) -> None:
        for arch in self.archs():
            assert self.space.from_record(json.loads(json.dumps(to_record(arch)))) == arch

    def test_a_text_describes_the_same_architecture(self) -> None:
        for arch in self.archs():
            assert self.space.from_text(self.text(arch)) == arch

    @pytest.mark.parametrize("text", ["", "{}", "[]", "nothing of the kind", '{"colour": 3}'])
    def test_another_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"got .+"):
            self.space.from_text(text)

    def test_a_record_with_other_fields_is_refused(self) -> None:
        record = to_record(self.space.largest())
        for name in record:
            with pytest.raises(ValueError, match=r"got .+"):
                self.space.from_record({key: v for key, v in record.items() if key != name})
            with pytest.raises(ValueError, match=name):
                self.space.from_record({**record, name: None})
        with pytest.raises(ValueError, match="colour"):
            self.space.from_record({**record, "colour": 3})

    def test_decode_refuses_missing_and_unknown_choices_and_options(self) -> None:
        values = self.space.encode(self.space.smallest())
        with pytest.raises(ValueError, match="colour"):
            self.space.decode({**values, "colour": 1})
        for name in values:
            with pytest.raises(ValueError, match=name):
                self.space.decode({key: v for key, v in values.items() if key != name})
            with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'blue'"):
                self.space.decode({**values, name: "blue"})

    def test_a_description_tells_architectures_apart_in_the_same_columns(self) -> None:
        archs = set(self.archs(200))
        found = [self.space.describe(arch) for arch in archs]
        assert len({tuple(words) for words in found}) == 1
        assert len({tuple(words.values()) for words in found}) == len(archs)
        assert all(isinstance(word, str) for words in found for word in words.values())

    def test_the_same_seed_samples_the_same_architectures(self) -> None:
        before = random.getstate()
        assert self.archs(20, seed=3) == self.archs(20, seed=3)
        assert self.space.num_archs() < 10 or self.archs(20, seed=3) != self.archs(20, seed=4)
        assert random.getstate() == before

    def test_each_choice_is_drawn_uniformly(self) -> None:
        space, generator = self.space, Random(5)
        drawn = [space.active(space.sample(generator)) for _ in range(3000)]
        for name, options in space.choices().items():
            counts = Counter(values[name] for values in drawn if name in values)
            found = [counts[option] for option in options]
            # Dozens of choices are tested with this one seed.
            assert len(options) == 1 or chisquare(found).pvalue > 1e-4, (name, counts)

    def test_smallest_and_largest_bound_every_choice(self) -> None:
        small, large = (self.space.encode(arch) for arch in self.archs(0))
        for arch in self.archs():
            for name, value in self.space.active(arch).items():
                options = self.space.choices()[name]
                first, last = options.index(small[name]), options.index(large[name])
                assert first <= options.index(value) <= max(first, last)

    def test_num_archs_counts_what_all_assignments_decode_to(self) -> None:
        choices, number = self.space.choices(), self.space.num_archs()
        assignments = prod(len(options) for options in choices.values())
        if assignments > COUNTED:
            assert len(set(self.archs(1000))) <= number <= assignments
            return
        archs = {
            self.space.decode(dict(zip(choices, values, strict=True)))
            for values in product(*choices.values())
        }
        assert number == len(archs)

    def test_features_are_equally_many_fractions(self) -> None:
        archs = self.archs()
        features = [self.space.features(arch) for arch in archs]
        assert len({len(row) for row in features}) == 1
        assert all(0 <= figure <= 1 for row in features for figure in row)
        again = [self.space.features(self.space.decode(self.space.encode(arch))) for arch in archs]
        assert features == again

    def test_features_tell_the_smallest_from_the_largest(self) -> None:
        smallest, largest = (self.space.features(arch) for arch in self.archs(0))
        assert smallest != largest
