"""The files of data sets: where they are published, and their SHA-256.

A SHA-256 is here only where somebody published it for the official file. The readers of
other files check their content.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import NamedTuple


class Source(NamedTuple):
    """The address of a published file, and its SHA-256.

    Attributes:
      url: The file's address; "" where it is published nowhere.
      sha256: SHA-256 of the file's bytes, in hex; "" where none is published, so that
        the file is not downloaded.
      content: SHA-256 of a zipped file's content, or "" where none is known.
    """

    url: str
    sha256: str
    content: str = ""


class Files(NamedTuple):
    """The files of a data set, by name."""

    needed: Mapping[str, Source]
    """Files that are required."""
    optional: Mapping[str, Source]
    """Files that add information, such as users."""
    instead: Mapping[str, Source] = types.MappingProxyType({})
    """Files that together replace the needed ones."""

    @property
    def all(self) -> dict[str, Source]:
        """All files: needed, optional and replacements."""
        return {**self.needed, **self.optional, **self.instead}


def _zipped(url: str, sha256: Mapping[str, tuple[str, str]]) -> dict[str, Source]:
    """Sources of zipped files, by name, with SHA-256 of files and contents."""
    return {name: Source(url + name, *both) for name, both in sha256.items()}


def _plain(url: str, sha256: Mapping[str, str]) -> dict[str, Source]:
    return {name: Source(url + name, one) for name, one in sha256.items()}


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_QMNIST_URL = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

_MNIST_SHA256: Mapping[str, tuple[str, str]] = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
_QMNIST_SHA256: Mapping[str, tuple[str, str]] = {
    "qmnist-train-labels-idx2-int.gz": (
        "2c05dc77f6b916b38e455e97ab129a42a444f3dbef09b278a366f82904e0dd9f",
        "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
    ),
    "qmnist-test-labels-idx2-int.gz": (
        "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06",
        "92d0ccb8c25f9c6534270fb4be7e1d24a1c6d315edfc8a638bfbd31c70f362dd",
    ),
}
_FASHION_SHA256: Mapping[str, tuple[str, str]] = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}

_UCI_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
_ADULT_SHA256 = {
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
_HEART_SHA256 = {
    "processed.cleveland.data": (
        "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"
    ),
    "processed.hungarian.data": (
        "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"
    ),
    "processed.switzerland.data": (
        "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"
    ),
    "processed.va.data": (
        "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"
    ),
}

CIFAR_ARCHIVE, CIFAR_JPEG = "cifar-10-binary.tar.gz", "cifar10_jpeg_q75.npz"
_CIFAR_SHA256 = {
    CIFAR_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
}

_LOCATION_URL = "https://github.com/privacytrustlab/datasets/raw/master/"
LOCATION_ARCHIVE = "dataset_location.tgz"

PLAYS = (
    *("1henryiv", "1henryvi", "2henryiv", "2henryvi", "3henryvi", "allswell"),
    *("asyoulikeit", "cleopatra", "comedy_errors", "coriolanus", "cymbeline"),
    *("hamlet", "henryv", "henryviii", "john", "julius_caesar", "lear", "lll"),
    *("macbeth", "measure", "merchant", "merry_wives", "midsummer", "much_ado"),
    *("othello", "pericles", "richardii", "richardiii", "romeo_juliet"),
    *("taming_shrew", "tempest", "timon", "titus", "troilus_cressida"),
    *("twelfth_night", "two_gentlemen", "winters_tale"),
)
PLAYS_ARCHIVE = "mit_shakespeare_html.tar.xz"
PAGES = tuple(f"{play}/full.html" for play in PLAYS)
_SHAKESPEARE_URL = "http://shakespeare.mit.edu/"

FILES: Mapping[str, Files] = {
    "adult": Files(_plain(_UCI_URL + "adult/", _ADULT_SHA256), {}),
    "cifar10": Files(
        _plain("https://www.cs.toronto.edu/~kriz/", _CIFAR_SHA256),
        {},
        {CIFAR_JPEG: Source("", "")},
    ),
    "fashion_mnist": Files(_zipped(_FASHION_URL, _FASHION_SHA256), {}),
    "heart_disease": Files(_plain(_UCI_URL + "heart-disease/", _HEART_SHA256), {}),
    "location30": Files(
        {LOCATION_ARCHIVE: Source(_LOCATION_URL + LOCATION_ARCHIVE, "")},
        {},
    ),
    "mnist": Files(
        _zipped(_MNIST_URL, _MNIST_SHA256), _zipped(_QMNIST_URL, _QMNIST_SHA256)
    ),
    "shakespeare": Files(
        {page: Source(_SHAKESPEARE_URL + page, "") for page in PAGES},
        {},
        {PLAYS_ARCHIVE: Source("", "")},
    ),
}
"""The files of the data sets that are read from files, by name."""


def whose(sha256: str) -> str | None:
    """Names the published file with these bytes, zipped or not, such as
    "fashion_mnist's t10k-labels-idx1-ubyte.gz"; None where no file is known.
    """
    for dataset, files in FILES.items():
        for name, source in files.all.items():
            if sha256 and sha256 in (source.sha256, source.content):
                return f"{dataset}'s {name}"
    return None
