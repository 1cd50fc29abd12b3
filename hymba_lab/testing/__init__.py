"""The contract of components, as laws that can be tried on anybody's: `hymba-lab check my.py`.

In tests of one's own:

    from hymba_lab.testing import Subject, example, laws_of

    @pytest.mark.parametrize("law", laws_of(subject), ids=lambda law: law.name)
    def test_my_mixer(law):
        law.holds(subject)          # raises Broken, which says how the law is broken

with `subject = Subject(ssms, example(ssms, "my_mixer"))`, or with options: `ssms.spec(name, ...)`.
"""

from hymba_lab.testing.battery import Law, Outcome, all_tried, laws_of, laws_of_axis, tried
from hymba_lab.testing.subjects import WIRES, Broken, Subject, Widths, example

__all__ = [
    "WIRES",
    "Broken",
    "Law",
    "Outcome",
    "Subject",
    "Widths",
    "all_tried",
    "example",
    "laws_of",
    "laws_of_axis",
    "tried",
]
