"""What is said of settings that were refused, inside of lists too."""

import pytest

from engine.errors import ConfigurationError
from engine.recipes.files import load_recipe


@pytest.mark.parametrize(("wrong", "right"), [("max_axe", "max_axes"), ("rat", "rate")])
def test_misspelt_setting_of_a_list_is_told_what_was_meant(wrong, right):
    """It said that there are no settings there."""
    change = f"optimizer.groups=[{{names: 'a*', rate: 2}}, {{names: 'b*', {wrong}: 1}}]"

    with pytest.raises(ConfigurationError) as found:
        load_recipe("digits-selection", [change])

    assert f"optimizer.groups.1.{wrong}: unknown setting" in str(found.value)
    assert f"Did you mean optimizer.groups.1.{right}?" in str(found.value)
