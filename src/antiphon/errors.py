"""Every failure a client can see, one class each. A class's docstring is its message.

    AntiphonError
    ├── ApiError                      has an HTTP status and OpenAI's error envelope
    │   ├── InvalidRequest            400, names the parameter
    │   │   ├── MissingParameter · InvalidType · InvalidValue · UnsupportedParameter · UnknownParameter
    │   │   ├── PreviousResponseNotFound · ConversationLocked · MutuallyExclusive
    │   │   ├── ModelNotFound · ContextLengthExceeded · InvalidEncryptedContent · NotStreamable
    │   ├── Unauthorized 401 · Forbidden 403 · NotFound 404 · MethodNotAllowed 405
    │   ├── RequestTimeout 408 · RequestUnderWay 409 · BodyTooLarge 413 · UnsupportedMediaType 415
    │   ├── DependencyFailed 424
    │   ├── TooManyRequests 429 · QueueFull 429
    │   └── ServerError 500 · StorageError 500 · ModelError 502 (upstream, worker) · Unavailable 503
    └── SettingsError                 the server cannot start so: shown on the terminal

Source of codes and texts: the error table of the Responses API (OpenAI's envelope, all four keys).
"""

from typing import ClassVar

MESSAGE_CHARS_MAX = 3_000
"""An error body stays under 4 KB, so that a fault in a huge input is not echoed whole."""


class AntiphonError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        text = message or (type(self).__doc__ or "").strip()
        super().__init__(text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…")

    @property
    def message(self) -> str:
        return str(self.args[0])


class SettingsError(AntiphonError):
    """The settings are wrong."""


class ApiError(AntiphonError):
    """The request failed."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    param: str | None = None

    def __init__(self, message: str | None = None, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = (param or type(self).param or "")[:256] or None
        self.code = code or type(self).code


class InvalidRequest(ApiError):
    """The request is invalid."""

    status = 400
    type = "invalid_request_error"


class MissingParameter(InvalidRequest):
    """A required parameter is missing."""

    code = "missing_required_parameter"


class InvalidType(InvalidRequest):
    """A parameter has the wrong type."""

    code = "invalid_type"


class InvalidValue(InvalidRequest):
    """A parameter has a value that is not supported."""

    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    """A parameter is not supported by this server."""

    code = "unsupported_parameter"


class UnknownParameter(InvalidRequest):
    """A parameter is not known."""

    code = "unknown_parameter"


class PreviousResponseNotFound(InvalidRequest):
    """The previous response was not found."""

    code = "previous_response_not_found"
    param = "previous_response_id"


class ConversationLocked(InvalidRequest):
    """Another process is currently operating on this conversation. Please retry in a few seconds."""

    code = "conversation_locked"


class MutuallyExclusive(InvalidRequest):
    """Mutually exclusive parameters. Ensure you are only providing one of: 'previous_response_id' or 'conversation'."""

    code = "mutually_exclusive_parameters"


class NotStreamable(InvalidRequest):
    """This response cannot be streamed."""

    code = "response_not_streamable"
    param = "stream"


class StreamExpired(NotStreamable):
    """This response can no longer be streamed: its events are kept for a while only (retention.background_events_hours). Retrieve it without 'stream'."""  # noqa: E501

    code = "response_stream_expired"


class ModelNotFound(InvalidRequest):
    """The requested model does not exist."""

    code = "model_not_found"
    param = "model"


class ContextLengthExceeded(InvalidRequest):
    """Your input exceeds the context window of this model. Please adjust your input and try again."""

    code = "context_length_exceeded"
    param = "input"


class InvalidEncryptedContent(InvalidRequest):
    """The encrypted content could not be verified: it was not made by this server for this project, or it was changed. Leave out items that other servers made."""  # noqa: E501

    code = "invalid_encrypted_content"


class Unauthorized(ApiError):
    """You didn't provide an API key. Provide it in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."""  # noqa: E501

    status = 401
    type = "invalid_request_error"


class Forbidden(ApiError):
    """The request is not allowed."""

    status = 403
    type = "invalid_request_error"


class NotFound(ApiError):
    """Not found."""

    status = 404
    type = "invalid_request_error"


class ConversationNotFound(NotFound):
    """The conversation was not found."""

    def __init__(self, conversation_id: str, *, param: str | None = None) -> None:
        super().__init__(f"Conversation with id '{conversation_id[:128]}' not found.", param=param)


class MethodNotAllowed(ApiError):
    """This path does not take that method."""

    status = 405
    type = "invalid_request_error"


class RequestUnderWay(ApiError):
    """The request with this Idempotency-Key is still being carried out. Please try again in a few seconds."""

    status = 409
    type = "invalid_request_error"
    code = "request_under_way"


class RequestTimeout(ApiError):
    """The request body did not arrive in time."""

    status = 408
    type = "invalid_request_error"


class BodyTooLarge(ApiError):
    """The request body is too large."""

    status = 413
    type = "invalid_request_error"


class UnsupportedMediaType(ApiError):
    """The request body must be JSON (Content-Type: application/json)."""

    status = 415
    type = "invalid_request_error"


class DependencyFailed(ApiError):
    """A server that the request names failed."""

    status = 424
    type = "external_connector_error"
    code = "http_error"


class TooManyRequests(ApiError):
    """Too many requests at once. Please retry in a few seconds."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class QueueFull(TooManyRequests):
    """Too many background responses are waiting. Please retry in a few seconds."""

    headers: ClassVar[dict[str, str]] = {"retry-after": "5"}


class ServerError(ApiError):
    """The server had an error while processing your request."""

    code = "server_error"


class StorageError(ServerError):
    """The response could not be saved, so it was not completed."""


class Unreadable(StorageError):
    """What is stored cannot be understood."""


class ModelError(ApiError):
    """The model failed to answer."""

    status = 502
    code = "server_error"


class ModelOverloaded(ModelError):
    """The model is overloaded or rate-limited. Please retry in a few seconds."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class Unavailable(ApiError):
    """The server is starting up or shutting down. Please try again."""

    status = 503
    headers: ClassVar[dict[str, str]] = {"retry-after": "1"}
