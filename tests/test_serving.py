"""The page that searches by image: what it answers, and what it refuses."""

import http.client
import io
import json
import os
import re
import signal

import pytest
from images import write_model
from PIL import Image
from processes import Forked, pml_slade_command

import pml_slade
from pml_slade import serving
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.serving import FOUND, HOST, LARGEST_UPLOAD, build_app, open_port

pytestmark = pytest.mark.once
pytest.importorskip("flask", reason="needs flask")


@pytest.fixture
def index(trained, folders):
    return trained.index(folders["unlabeled"])


@pytest.fixture
def client(trained, index):
    return build_app(trained, index).test_client()


def test_an_uploaded_picture_finds_what_search_finds(client, trained, index, folders):
    query = sorted(folders["test"].rglob("*.png"))[0]
    answer = client.post("/search", data=query.read_bytes())
    [expected] = trained.search(query, index, FOUND)
    assert [(m["name"], m["position"]) for m in answer.json["matches"]] == [
        (match.name, match.position) for match in expected
    ]
    assert [m["score"] for m in answer.json["matches"]] == pytest.approx(
        [match.score for match in expected], abs=1e-4
    )


def test_an_image_of_the_index_finds_others_but_not_itself(client, trained, index):
    answer = client.get("/like/3").json["matches"]
    [expected] = trained.search(index.names[3], index, FOUND)
    assert [m["score"] for m in answer] == pytest.approx([m.score for m in expected], abs=1e-4)
    assert answer[0]["name"] == expected[0].name
    assert 3 not in [m["position"] for m in answer]


def test_the_images_are_small_jpegs_of_the_index(client, index):
    answer = client.get("/image/0")
    assert answer.content_type == "image/jpeg"
    assert Image.open(io.BytesIO(answer.data)).size == (256, 256)
    assert client.get(f"/image/{len(index) - 1}").status_code == 200


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_what_is_no_image_is_refused(client, content):
    answer = client.post("/search", data=content, content_type="image/png")
    assert answer.status_code == 415
    assert "not an image" in answer.json["error"]


@pytest.mark.parametrize(
    "path",
    [
        *("/image/../../etc/passwd", "/image/%2e%2e%2fetc%2fpasswd", "/image//etc/passwd", "/image/etc"),
        *("/image/64", "/image/-1", "/like/64", "/images.json", "/static/x"),
    ],
)
def test_a_path_outside_is_not_found(client, path):
    assert client.get(path).status_code == 404


def test_an_index_that_names_another_file_does_not_give_it_away(trained, index, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    index.names[0], index.names[1] = str(tmp_path / "secret.txt"), str(tmp_path / "gone.png")
    client = build_app(trained, index).test_client()
    for position in (0, 1):
        answer = client.get(f"/image/{position}")
        assert answer.status_code == 404
        assert b"secret" not in answer.data


def test_a_large_upload_is_refused(client, monkeypatch):
    answer = client.post("/search", data=b"x" * (LARGEST_UPLOAD + 1))
    assert answer.status_code == 413
    assert answer.json["error"] == "The file is larger than 20 MB."


def test_other_sites_are_refused(client):
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:8000", "Sec-Fetch-Site": "none"}).status_code == 200


def test_another_models_index_and_a_missing_package_are_named(trained, folders, tmp_path, index, monkeypatch):
    other = pml_slade.load(write_model(tmp_path, seed=1), "cpu", workers=0)
    with pytest.raises(DataError, match="index: it was made with another model"):
        build_app(other, index)
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"serve needs flask: pip install 'pml-slade\[serve\]'"):
        build_app(trained, index)


def test_a_port_that_is_taken_is_named():
    with open_port(0) as opened, pytest.raises(ConfigError, match=r"port: \d+ cannot be used"):
        open_port(opened.getsockname()[1])


def test_the_command_listens_on_this_machine_alone(model, index, tmp_path):
    """A 100 MB upload is refused before it is read; Ctrl-C ends the command without a traceback."""
    index.save(tmp_path)
    server = Forked(pml_slade_command, "serve", model, tmp_path, "--port", 0)
    try:
        number = int(server.says(rf"http://{re.escape(HOST)}:(\d+) ")[1])
        connection = http.client.HTTPConnection(HOST, number, timeout=30)
        connection.putrequest("POST", "/search")
        connection.putheader("Content-Length", str(100 * 2**20))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
        assert "larger than" in json.loads(answer.read())["error"]
        connection.close()
        idle = http.client.HTTPConnection(HOST, number, timeout=30)
        idle.connect()  # as browsers do ahead of time
    finally:
        code, lines = server.signal(signal.SIGINT).end(timeout=30)
    assert (code, lines) == (0, [])
    assert os.path.exists(tmp_path / "images.json")
