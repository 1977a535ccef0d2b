"""LMDB stores of one modality each: a resumable, atomic writer and readers that check what they read.

Our own layout is self-describing (`meta`, `record`, `contents`); its folder holds `data.mdb` and, once finished,
`manifest.json` (`folder`). The pickled layouts of the published sets, for pretraining (`published`) and for transfer
(`transfer`), are read in place (`pickled`), and never unpickled (`opcodes`). Readers go into worker processes; each
process opens its own environments (`environment`).
"""

from cromss.store.environment import views
from cromss.store.folder import partial_path
from cromss.store.meta import FORMAT_VERSION, StoreError, StoreMeta
from cromss.store.opening import open_part, open_store
from cromss.store.published import PublishedReader
from cromss.store.reader import LmdbReader
from cromss.store.transfer import PublishedTransferReader, ToClassIds
from cromss.store.writer import LmdbWriter

__all__ = [
    "FORMAT_VERSION",
    "LmdbReader",
    "LmdbWriter",
    "PublishedReader",
    "PublishedTransferReader",
    "StoreError",
    "StoreMeta",
    "ToClassIds",
    "open_part",
    "open_store",
    "partial_path",
    "views",
]
