"""Settings of data: where reviews come from, how they are labelled, and how texts are read."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator

from sealr.settings.base import frozen


@frozen
class RemoteFile:
    # A file or a folder of parts: absolute, or relative to the data folder (SEALR_DATA); or a URL such as
    # s3://bucket/key; or, with a query, the address of a database, as SQLAlchemy writes it
    path: str = ""
    url: str = ""  # where to download the file if it is missing; empty: never download
    sha256: str = ""  # expected checksum of the downloaded file; empty: not checked
    query: str = ""  # SQL query whose rows are the reviews or items, for a path such as postgresql://host/shop


@frozen
class Columns:
    # Column names in your file, "" if the column is absent; a.b is the key b within the JSON object a
    user: str = "user"
    item: str = "item"
    timestamp: str = "timestamp"
    rating: str = "rating"
    text: str | tuple[str, ...] = "text"  # several columns are joined, e.g. [summary, body]
    title: str = "title"  # the last three are columns of the items file
    brand: str = "brand"
    categories: str = "categories"


@frozen
class DataConfig:
    name: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*$"
    )  # name of the data set: a folder in the state folder, a tag in MLflow
    category: str = "products"  # fills {category} in the paper's instruction template (Figure 3)
    # Reader in sealr/data/sources
    source: Literal["demo", "amazon", "amazon-2023", "goodreads", "yelp", "columns", "sequences"] = "demo"
    reviews: RemoteFile = RemoteFile()  # reviews file; unused by source: demo
    items: RemoteFile = RemoteFile()  # item metadata file; optional
    columns: Columns = Columns()  # column names for source: columns, and for the items file of source: sequences
    # The next six settings are for source: columns.
    time_unit: Literal["s", "ms", "iso"] = "s"  # unit of timestamps that are numbers; iso: they are dates like 20240131
    # Dates that are texts: auto, or one or several of iso and strptime patterns such as "%d/%m/%Y"
    date_format: str | tuple[str, ...] = "auto"
    # Ratings: stars from 1 to 5 and fractions such as 7/10; "1..10": numbers from 1 to 10; or {good: 5, bad: 1}
    rating_scale: str | dict[str, float] = ""
    encoding: str = "auto"  # of text files: auto, or a name such as cp1252
    delimiter: str = Field("auto", pattern="^(auto|tab|.)$")  # of CSV files: auto, tab, or a character
    header: bool = True  # of CSV files; false: the columns are called "1", "2" and so on
    need_text: bool = False  # reject reviews without a text
    # What rejected.parquet keeps of a rejected row: the raw record with its texts, or only source, line and reason
    keep_rejected: Literal["raw", "reason"] = "raw"
    # Drop reviews before this UTC date (YYYY-MM-DD); empty: only dates before 1990, which are rarely true
    start_date: str = ""
    k_core: int = Field(5, ge=1)  # iterative k-core over users and items; 1 keeps everything
    # spark: the cluster that SPARK_MASTER or Spark's own settings name, else this machine; the tables are the same
    engine: Literal["local", "spark"] = "local"
    demo_users: int = Field(320, ge=20)  # users that source: demo generates
    demo_seed: int = 7  # seed of the demo generator

    @field_validator("start_date")
    @classmethod
    def _day(cls, text: str) -> str:
        try:
            return text and f"{datetime.strptime(text, '%Y-%m-%d'):%Y-%m-%d}"
        except ValueError:
            raise ValueError(f"data.start_date {text!r} is not a date of the form YYYY-MM-DD") from None


@frozen
class LabelConfig:
    # auto: the hub model if it is reachable, else the embedded labeller; or a model name or folder
    model: str = "auto"
    cache: bool = True  # cache probabilities by text hash, for all data sets, in label-cache/ of the state folder
    engine: Literal["local", "ray"] = "local"  # ray: workers of a Ray cluster (RAY_ADDRESS, else a local one)
    workers: int = Field(0, ge=0)  # concurrent batches or Ray workers; 0: one per thread, or 2 Ray workers
    sentiment_map: dict[str, int] = Field(default_factory=dict)  # changes to the 28-to-5 map, e.g. {curiosity: 0}


@frozen
class ContentConfig:
    """How texts become vectors, for `retrieve.content` and `rerank.scoring.content`."""

    # An encoder or a base LLM, frozen: a model name that sealr/weights.py resolves, or a folder
    reader: str = "sentence-transformers/all-MiniLM-L6-v2"
    layers: int = Field(0, ge=0)  # use only the first n layers of the reader; 0: all
    max_tokens: int = Field(128, ge=8)  # tokens read of each review
    max_reviews: int = Field(50, ge=1)  # newest reviews read of each item
    cache: bool = True  # keep vectors by text hash, for all data sets, in vector-cache/ of the state folder
