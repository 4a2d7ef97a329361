"""A small Hugging Face Hub of our own, with one repository at two revisions."""

import hashlib
import http.server
import json
import threading
import time

from huggingface_hub import constants

NOBODY = "http://127.0.0.1:9"  # where nobody answers
COMMITS = {"main": "1" * 40, "refs/pr/7": "7" * 40}


def _git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """A server of one model at two revisions. files: {revision: {name: content}}."""

    def __init__(self, files):
        self.files, self.requests = files, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self, body=True)

            def do_HEAD(self):
                hub.answer(self, body=False)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler, *, body):
        path = handler.path.split("?")[0].replace("%2F", "/")
        self.requests.append(path)
        content, headers = self.find(path)
        handler.send_response(404 if content is None else 200)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content or b"")))
        handler.end_headers()
        if body and content:
            handler.wfile.write(content)

    def find(self, path):
        """(content, headers) of a request."""
        revisions = {**COMMITS, **{commit: commit for commit in COMMITS.values()}}
        of_commit = {COMMITS[name]: files for name, files in self.files.items()}
        for name, commit in revisions.items():
            files = of_commit.get(commit, {})
            if path == f"/api/models/some/clip/revision/{name}":
                siblings = [{"rfilename": file} for file in files]
                return _json({"id": "some/clip", "sha": commit, "siblings": siblings})
            if path == f"/api/models/some/clip/tree/{name}":
                return _json([_entry(file, content) for file, content in files.items()])
            for file, content in files.items():
                if path == f"/some/clip/resolve/{name}/{file}":
                    return content, {"ETag": f'"{_etag(file, content)}"', "X-Repo-Commit": commit}
        if path == "/api/models/some/clip":
            return self.find("/api/models/some/clip/revision/main")
        if path == "/api/models/some/clip/discussions":
            return _json({"discussions": [_discussion(7)], "count": 1, "start": 0})
        return None, {"X-Error-Code": "RepoNotFound" if "other" in path else "EntryNotFound"}


def _json(value):
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


def is_large(file):
    return file.endswith(".safetensors")


def _etag(file, content):
    return hashlib.sha256(content).hexdigest() if is_large(file) else _git_sha1(content)


def _entry(file, content):
    entry = {"type": "file", "path": file, "size": len(content), "oid": _git_sha1(content)}
    if is_large(file):
        entry["lfs"] = {"oid": _etag(file, content), "size": len(content), "pointerSize": 134}
    return entry


def _discussion(number):
    return {
        "num": number,
        "title": "Adding `safetensors` variant of this model",
        "author": {"name": "SFconvertbot"},
        "isPullRequest": True,
        "status": "open",
        "createdAt": "2023-01-01T00:00:00.000Z",
        "repo": {"name": "some/clip", "type": "model"},
    }


def use_hub(monkeypatch, url, cache):
    """Sends this process to a Hub, with a cache of its own."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between retries
