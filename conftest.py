"""The bridge to powerful-benchmarker is looked at only where that is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("powerful_benchmarker") else ["pml_slade/benchmarker/*"]
