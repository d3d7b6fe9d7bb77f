"""Imported once by the server that workers are forked from: what each of them would do again.

Finding the algorithms imports all of them, and asking git and the packages for their versions
starts processes and reads files: together a quarter of a second for each worker. What a worker
writes into run.json is then also the version of the code that it runs, not of what is there by now.
"""

import algos
from runners.storage import manifest

algos.list_algos()
manifest.code_version()
manifest.package_versions()
manifest.machine()
