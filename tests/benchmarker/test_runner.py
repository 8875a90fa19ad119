import pytest

pytest.importorskip("powerful_benchmarker")


def test_x(finished):
    import subprocess
    print(subprocess.run(["find", str(finished.experiments)], capture_output=True, text=True).stdout)
    assert 0
