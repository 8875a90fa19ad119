"""`python -m pml_slade` is `pml-slade`."""

from .cli import main

main()
