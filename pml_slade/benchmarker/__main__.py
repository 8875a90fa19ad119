"""`python -m pml_slade.benchmarker`, the same as `pml-slade benchmark`."""

from . import main

main()
