"""Data sources: importing this package makes each known by name in `source.datasets`."""

from hymba_lab.data import copying as copying
from hymba_lab.data import corpora as corpora
from hymba_lab.data import files as files
from hymba_lab.data import needle as needle
from hymba_lab.data import recall as recall
from hymba_lab.data import shards as shards
from hymba_lab.data import text as text
