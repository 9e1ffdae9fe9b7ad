#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What packaging/kubernetes/installer.sh asks of Kubernetes' API: PATCH of a node's labels, by HTTPS with a token.

kubernetes_api.py DIRECTORY PORT: DIRECTORY has cert.pem, key.pem and token; labels.json there is what was set.
"""
import http.server
import json
import pathlib
import ssl
import sys


class Api(http.server.BaseHTTPRequestHandler):
    directory = pathlib.Path()

    def do_PATCH(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        prefix, _, node = self.path.rpartition("/")
        if self.headers["Authorization"] != f"Bearer {(self.directory / 'token').read_text()}":
            self.send_error(401)
        elif prefix != "/api/v1/nodes" or self.headers["Content-Type"] != "application/merge-patch+json":
            self.send_error(404)
        else:
            self.merge(node, json.loads(body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def merge(self, node, patch):
        path = self.directory / "labels.json"
        nodes = json.loads(path.read_text()) if path.exists() else {}
        labels = {**nodes.get(node, {}), **patch["metadata"]["labels"]}
        nodes[node] = {name: value for name, value in labels.items() if value is not None}
        path.write_text(json.dumps(nodes))


def main():
    Api.directory = pathlib.Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Api.directory / "cert.pem", Api.directory / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
