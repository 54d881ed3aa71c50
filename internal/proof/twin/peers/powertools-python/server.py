"""A service that is guarded by Powertools for AWS Lambda (Python), with Redis as its store.

The key is composed of the customer and the Idempotency-Key, as in the examples of its documentation.
"""

import http.server
import json
import os
import time
import uuid

from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyKeyError,
    IdempotencyValidationError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.redis import CachePersistenceLayer


class Context:
    """What the library needs to know of a Lambda: how long it may still run."""

    @staticmethod
    def get_remaining_time_in_millis():
        return 3000


layer = CachePersistenceLayer(url=os.environ["REDIS_URL"], ssl=False)
config = IdempotencyConfig(
    event_key_jmespath="[customer, key]",
    payload_validation_jmespath="body" if os.environ.get("VALIDATE") else "",
    raise_on_no_idempotency_key=True,
)


@idempotent_function(data_keyword_argument="event", persistence_store=layer, config=config)
def pay(event):
    if event["fail"]:
        raise RuntimeError("failed")
    with open(os.environ["EFFECTS"], "a", encoding="utf-8") as effects:
        effects.write(json.dumps(event["body"]) + "\n")  # the effect
    time.sleep(0.1)
    return {"id": str(uuid.uuid4())}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            event = {
                "customer": self.headers.get("Authorization"),
                "key": self.headers.get("Idempotency-Key"),
                "fail": self.headers.get("X-Fail"),
                "body": json.loads(raw),
            }
        except ValueError:
            return self.answer(400, {"code": "not_json"})
        if not event["key"]:
            return self.answer(400, {"code": "key_missing"})
        config.register_lambda_context(Context())
        try:
            return self.answer(201, pay(event=event))
        except IdempotencyAlreadyInProgressError:
            return self.answer(409, {"code": "in_progress"})
        except IdempotencyValidationError:
            return self.answer(422, {"code": "other_payload"})
        except IdempotencyKeyError:
            return self.answer(400, {"code": "key_missing"})
        except Exception as failure:  # pylint: disable=broad-except
            return self.answer(500, {"code": type(failure).__name__})

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
