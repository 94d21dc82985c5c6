"""Un faux collecteur de traces, pour les tests."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Un faux collecteur : garde ce qui lui est remis, et répond ce qu'on lui dit."""

    def __init__(self, status=200):
        self.spans, self.paths = [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                data = handler.rfile.read(int(handler.headers["content-length"]))
                self.paths.append(handler.path)
                message = ExportTraceServiceRequest.FromString(data)
                for resource in message.resource_spans:
                    for scope in resource.scope_spans:
                        self.spans += [(resource.resource, span) for span in scope.spans]
                handler.send_response(status)
                handler.send_header("content-length", "0")
                handler.end_headers()

            def log_message(handler, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
