"""Downloads as jobs that a killed connection or machine does not spoil.

A job (`job`) fetches named items, tries again what a service fails to give (`retries`), and keeps account of each in a
manifest (`manifest`), so that the same command goes on where it stopped.

Land use (`land_use`) comes from the maps of a web map service (`map_service`), by the colours of its legend
(`pictures`).
"""

from cromss.downloads.job import NothingThere, Summary, download
from cromss.downloads.manifest import MANIFEST_NAME, FileMark, written
from cromss.downloads.retries import Unavailable

__all__ = ["MANIFEST_NAME", "FileMark", "NothingThere", "Summary", "Unavailable", "download", "written"]
