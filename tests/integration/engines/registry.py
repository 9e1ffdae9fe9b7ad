# SPDX-License-Identifier: Apache-2.0
"""A read-only registry of OCI images on loopback, for every name that an engine is told to ask it about.

`Store` writes images into a directory; run as a program, this file serves that directory: `registry.py DIRECTORY PORT`.
OCI distribution-spec 1.1: the pull category, without referrers.
"""
import hashlib
import http.server
import io
import json
import pathlib
import re
import sys
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

# distribution-spec "Pulling manifests" and "Pulling blobs".
ROUTE = re.compile(r"/v2/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)/(?P<kind>manifests|blobs)/(?P<reference>[\w.:-]{1,128})")

READY = "serving"  # what the program says once it can be connected to


class Store:
    """Blobs by digest, and tags as links to them."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.blobs = self.directory / "blobs"
        self.blobs.mkdir(parents=True)
        self.tags = self.directory / "tags"

    def add_blob(self, data, media_type):
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add_layer(self, entries):
        """A layer of TarInfos, each with its content or None."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for entry, data in entries:
                archive.addfile(entry, None if data is None else io.BytesIO(data))
        return self.add_blob(out.getvalue(), LAYER)

    def add_image(self, references, layers, config, label):
        """`references`: NAME:TAG without a host. `label` makes an image's identity its own."""
        described = {"architecture": "amd64", "os": "linux", "config": {**config, "Labels": {"image": label}},
                     "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
                    "config": self.add_blob(json.dumps(described).encode(), CONFIG)}
        digest = self.add_blob(json.dumps(manifest).encode(), MANIFEST)["digest"]
        for reference in references:
            name, tag = reference.rsplit(":", 1)
            (self.tags / name).mkdir(parents=True, exist_ok=True)
            (self.tags / name / tag).symlink_to(self.blobs / digest)
        return digest


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory = pathlib.Path()

    def do_GET(self):
        self._answer(True)

    def do_HEAD(self):
        self._answer(False)

    def _answer(self, with_body):
        path = self.path.split("?", 1)[0]  # containerd adds ?ns=HOST
        route = ROUTE.fullmatch(path)
        if path == "/v2/":
            return self._send(200, b"{}", "application/json", {}, with_body)
        file = self._file(route) if route else None
        if file is None or not file.is_file():
            error = {"errors": [{"code": "NAME_UNKNOWN", "message": f"no {path}"}]}
            return self._send(404, json.dumps(error).encode(), "application/json", {}, with_body)
        data = file.read_bytes()
        is_manifest = route["kind"] == "manifests"
        media_type = json.loads(data)["mediaType"] if is_manifest else "application/octet-stream"
        return self._send(200, data, media_type, {"Docker-Content-Digest": file.resolve().name}, with_body)

    def _file(self, route):
        if route["reference"].startswith("sha256:"):
            return self.directory / "blobs" / route["reference"]
        return self.directory / "tags" / route["name"] / route["reference"] if route["kind"] == "manifests" else None

    def _send(self, status, data, media_type, headers, with_body):
        self.send_response(status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)


def serve(directory, port):
    Handler.directory = pathlib.Path(directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(READY, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
