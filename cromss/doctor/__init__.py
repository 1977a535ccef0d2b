"""The doctor of stores: whether a set can be trained on, what is wrong where, and leaving that out.

`examination` walks the stores (`subject`, `tiles`), compares them (`sets`, `duplicates`), and reports (`report`,
`panel`); `treatment` leaves what is damaged out of use.
"""

from cromss.doctor.examination import Examination, examine
from cromss.doctor.findings import DAMAGED, NOTE, SUSPECT, Finding

__all__ = ["DAMAGED", "NOTE", "SUSPECT", "Examination", "Finding", "examine"]
