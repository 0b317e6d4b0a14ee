"""Places that have a dataset: URL, a folder for each kind of file, the variable of a token. Asks none of them."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from laion_assets.file_layout import FileKind


class Folders(BaseModel):
    """The folders of the three kinds of file below a source's URL; "" is the URL itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = "img_emb"
    text: str = "text_emb"
    metadata: str = "metadata"

    def of(self, kind: FileKind) -> str:
        """The folder of one kind of file."""
        return {"image": self.image, "text": self.text, "metadata": self.metadata}[kind]


class SourceLayout(BaseModel):
    """One place that is known to have the dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    folders: Folders = Folders()
    token_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    @field_validator("url")
    @classmethod
    def _can_be_taken_apart(cls, url: str) -> str:
        try:
            _ = urlsplit(url).port
        except ValueError:
            raise ValueError("a URL such as https://…, file:///… or s3://…, or a folder's path") from None
        return url
