"""Files of models from the Hub: pinned, checked, and apart from data sets of the same name."""

import pytest

from birdjepa.core.errors import UsageError
from birdjepa.data import hub_http
from birdjepa.data.hub_models import fetch_file, fetch_model
from tests.hub_server import environment, serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving() as running:
        running.files["me/net"] = {"config.json": b"{}", "onnx/a.onnx": b"weights" * 100, "README.md": b"hello"}
        for name, value in environment(running, tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(attempts=4, base_s=0.01, stall_s=1.0))
        yield running


def test_a_file_comes_with_its_commit_and_only_once(server, monkeypatch):
    for _ in range(2):
        path, commit = fetch_file("hub:me/net/onnx/a.onnx")
        assert path.read_bytes() == b"weights" * 100
        assert commit == server.sha("me/net")
    assert server.downloads() == ["/cdn/me/net/onnx/a.onnx"]
    assert "models--me--net" in path.as_posix()
    assert any(path.startswith("/api/models/me/net") for kind, path, _ in server.seen if kind == "api")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_file(f"hub:me/net/onnx/a.onnx#{commit}").path == path


def test_a_folder_holds_what_was_chosen(server):
    folder, commit = fetch_model("hub:me/net#v1", lambda names: [name for name in names if not name.endswith(".onnx")])
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json"]
    assert len(commit) == 40


def test_a_path_is_a_path(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"x")
    assert fetch_file(str(tmp_path / "a.onnx")) == (tmp_path / "a.onnx", "")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere.onnx", r"nowhere.onnx: no such file; give a path or hub:OWNER"),
        ("hub:me/net", r"give a file of the repository"),
        ("hub:me/net/b.onnx", r"the repository has no b.onnx; it has config.json, onnx/a.onnx, README.md"),
        ("hub:me/../x", r"is not hub:OWNER/NAME"),
        ("hub:you/x/a.onnx", r"the Hub has no such repository, revision or file \(404\)"),
    ],
)
def test_what_is_not_there_is_told(server, name, told):
    with pytest.raises(UsageError, match=told):
        fetch_file(name)


def test_a_folder_without_what_is_needed_is_told(server):
    with pytest.raises(UsageError, match="holds none of the files that are needed"):
        fetch_model("hub:me/net", lambda names: [])
    with pytest.raises(UsageError, match="give a repository"):
        fetch_model("hub:me/net/config.json", list)
