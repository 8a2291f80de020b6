"""A server with as much of MLflow's REST interface as a run uses, that can be slow, broken, or gone."""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

NUMBERS = itertools.count(1)  # no id twice in a process: MLflow's client remembers where the artifacts of a run are


class MlflowServer:
    """`runs`: id -> params, tags, status and metrics (name, value, step). `seconds` is what each answer takes, until
    `hurry` is set; `broken` answers 500."""

    def __init__(self, artifacts="nowhere"):
        self.artifacts = str(artifacts)
        self.runs, self.seconds, self.broken, self.requests = {}, 0.0, False, []
        self.hurry, self._lock = threading.Event(), threading.Lock()
        self._start(0)

    def _start(self, port):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                address = urlparse(self.path)
                outer._answer(self, address.path, {key: values[0] for key, values in parse_qs(address.query).items()})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer._answer(self, urlparse(self.path).path, json.loads(body or b"{}"))

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        """The port is closed from now on."""
        self._server.shutdown()
        self._server.server_close()

    def restart(self):
        """At the same port, with what was stored."""
        self._start(self.port)

    @property
    def metrics(self):
        """(name, value, step) of all runs."""
        return [metric for run in self.runs.values() for metric in run["metrics"]]

    def _answer(self, handler, path, body):
        self.hurry.wait(self.seconds)
        with self._lock:
            self.requests.append((path, body, dict(handler.headers)))
            code, answer = (500, {"error_code": "INTERNAL_ERROR", "message": "out of order"}) if self.broken else self._do(path, body)
        text = json.dumps(answer).encode()
        try:
            handler.send_response(code)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)
        except OSError:  # the client did not wait
            pass

    def _do(self, path, body):
        run = self.runs.get(body.get("run_id"))
        match path.removeprefix("/api/2.0/mlflow/"):
            case "experiments/get-by-name":
                return 200, {"experiment": {"experiment_id": "1", "name": body["experiment_name"], "lifecycle_stage": "active"}}
            case "runs/create":
                name = f"{next(NUMBERS):032x}"
                run = self.runs[name] = {"params": {}, "tags": {}, "status": "RUNNING", "metrics": [], "run_name": body.get("run_name")}
                return 200, {"run": self._run(name, run)}
            case _ if run is None:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
            case "runs/get":
                return 200, {"run": self._run(body["run_id"], run)}
            case "runs/update":
                run["status"] = body.get("status", run["status"])
                return 200, {"run_info": self._run(body["run_id"], run)["info"]}
            case "runs/set-tag":
                run["tags"][body["key"]] = body["value"]
            case "runs/log-batch":
                run["params"] |= {param["key"]: param["value"] for param in body.get("params", [])}
                run["tags"] |= {tag["key"]: tag["value"] for tag in body.get("tags", [])}
                run["metrics"] += [(metric["key"], metric["value"], int(metric.get("step", 0))) for metric in body.get("metrics", [])]
            case "metrics/get-history":
                found = [metric for metric in run["metrics"] if metric[0] == body["metric_key"]]
                return 200, {"metrics": [{"key": k, "value": v, "step": step, "timestamp": 1} for k, v, step in found]}
            case _:
                return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}
        return 200, {}

    def _run(self, name, run):
        info = {"run_id": name, "run_uuid": name, "experiment_id": "1", "status": run["status"], "lifecycle_stage": "active", "end_time": 1}
        params = [{"key": key, "value": value} for key, value in run["params"].items()]
        return {"info": info | {"artifact_uri": self.artifacts}, "data": {"params": params, "metrics": [], "tags": []}}
