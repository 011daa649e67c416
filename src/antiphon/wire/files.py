"""Files and uploads in parts, as they are asked for and shown. Data only.

Source: openai 3.54.0 types/file_object.py, file_create_params.py, upload.py, upload_create_params.py, uploads/.
"""

from typing import Annotated, Final, Literal, TypeAlias, get_args

from msgspec import Meta, Struct

FilePurpose: TypeAlias = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: Final = get_args(FilePurpose)
UploadStatus: TypeAlias = Literal["pending", "completed", "cancelled", "expired"]

FILENAME_CHARS_MAX: Final = 255
EXPIRY_S_MIN, EXPIRY_S_MAX = 3_600, 2_592_000
"""From an hour to thirty days; files for batches live so long where nothing is said."""


class FileExpiry(Struct, frozen=True, kw_only=True):
    """When a file goes: so many seconds after it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=EXPIRY_S_MIN, le=EXPIRY_S_MAX)]


class StoreFile(Struct, frozen=True, kw_only=True):
    """What is said of a file that is sent, beside its name and its bytes."""

    purpose: FilePurpose
    expires_after: FileExpiry | None = None


class FileObject(Struct, frozen=True, kw_only=True):
    """A stored file; times are in Unix seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: FilePurpose
    status: Literal["processed"] = "processed"
    """The reference no longer uses it: a file that is there can be used."""
    status_details: None = None


class FileList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[FileObject, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, files: tuple[FileObject, ...], *, has_more: bool) -> "FileList":
        first, last = (files[0].id, files[-1].id) if files else (None, None)
        return cls(data=files, first_id=first, last_id=last, has_more=has_more)


class DeletedFile(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class CreateUpload(Struct, frozen=True, kw_only=True):
    bytes: Annotated[int, Meta(ge=0)]
    filename: Annotated[str, Meta(min_length=1)]
    mime_type: Annotated[str, Meta(min_length=1, max_length=255)]
    """Asked for by the API, and shown by nothing of it."""
    purpose: FilePurpose
    expires_after: FileExpiry | None = None


class Upload(Struct, frozen=True, kw_only=True):
    """A file that is being sent in parts. `bytes` is how long it is meant to be; `file` is what became of it."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: FilePurpose
    status: UploadStatus
    file: FileObject | None = None


class CreatePart(Struct, frozen=True, kw_only=True):
    """Nothing is said of a part beside its bytes."""


class UploadPart(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class CompleteUpload(Struct, frozen=True, kw_only=True):
    part_ids: tuple[str, ...]
    """In the order in which they make up the file."""
    md5: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{32}\Z")] | None = None
    """Of the whole file, in hexadecimal digits."""
